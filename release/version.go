package release

import (
	"cmp"
	"slices"
	"strings"
)

// CompareVersions orders semantic versions by precedence (semver.org, item 11): negative where a comes before b. Build
// metadata does not count. What is no version comes before everything that is one.
func CompareVersions(a, b string) int {
	va, vb := ValidVersion(a), ValidVersion(b)
	if !va || !vb {
		return order(va, vb)
	}
	coreA, preA := split(a)
	coreB, preB := split(b)
	if c := slices.CompareFunc(strings.Split(coreA, "."), strings.Split(coreB, "."), compareNumbers); c != 0 {
		return c
	}
	switch {
	case preA == "" || preB == "":
		return order(preA == "", preB == "") // a version comes after its own pre-releases
	default:
		return slices.CompareFunc(strings.Split(preA, "."), strings.Split(preB, "."), comparePre)
	}
}

func split(v string) (core, pre string) {
	v, _, _ = strings.Cut(v, "+")
	core, pre, _ = strings.Cut(v, "-")
	return core, pre
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// compareNumbers compares digits without a leading zero as numbers of any size.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func comparePre(a, b string) int {
	na, nb := number(a), number(b)
	switch {
	case na && nb:
		return compareNumbers(a, b)
	case na != nb:
		return order(!na, !nb) // numbers come before words
	default:
		return cmp.Compare(a, b)
	}
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// On tells whether a host that follows the channel is offered what was released on another: preview hosts get stable
// releases too, so that they are not left behind when a preview becomes the release.
func On(follows, released string) bool {
	return released == follows || follows == Preview && released == Stable
}

// Resolve finds the targets of a program's version, one a platform: of the one that is named, else of the newest that a
// follower of the channel (stable where it is empty) is offered. A version that is named may be on any channel unless a
// channel is named, too. There are none where it is not published.
func Resolve(targets []Target, program, channel, version string) []Target {
	follows := cmp.Or(channel, Stable)
	named := version != ""
	for _, t := range targets {
		if !named && t.Format == FormatProgram && t.Name == program && On(follows, t.Channel) &&
			(version == "" || CompareVersions(t.Version, version) > 0) {
			version = t.Version
		}
	}
	var found []Target
	for _, t := range targets {
		if t.Format == FormatProgram && t.Name == program && t.Version == version && (channel == "" && named || On(follows, t.Channel)) {
			found = append(found, t)
		}
	}
	return found
}

// Newest is the highest version of a program for a platform that a follower of the channel is offered.
func Newest(targets []Target, program, channel, os, arch string) (Target, bool) {
	var best Target
	for _, t := range targets {
		if t.Format == FormatProgram && t.Name == program && t.OS == os && t.Architecture == arch && On(channel, t.Channel) &&
			(best.Version == "" || CompareVersions(t.Version, best.Version) > 0) {
			best = t
		}
	}
	return best, best.Version != ""
}
