// Package release is the catalogue of agents and modules that hosts may run.
//
// Artefacts are TUF targets. Root and targets keys are held outside the control plane, by whoever publishes; the control
// plane holds only the keys of snapshot and timestamp, and so can say what is current but cannot vouch for a program.
// A target's path is "NAME/VERSION/OS-ARCH/FILE"; what is known of it beyond length and hashes (version, channel,
// platform, format) is in the target's custom fields, under the same signature. Beside a program lie, where its publisher
// made them, the packages that bring it and the list of what it was built from. Hosts pass over formats that they do not
// know.
package release

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over releases.
const (
	Read    access.Permission = "releases.read"
	Publish access.Permission = "releases.publish"
)

// Channels a release may be on.
const (
	Stable  = "stable"
	Preview = "preview"
)

// Agent is the name of the core program.
const Agent = "loopback-agent"

// Formats of a target.
const (
	FormatProgram = ""         // the program itself
	FormatDeb     = "deb"      // a package for Debian and its kin
	FormatRPM     = "rpm"      // a package for Fedora, SUSE and theirs
	FormatSBOM    = "cdx.json" // what the program was built from, in CycloneDX
)

// Target is one file for one platform: a program, or what goes with it.
type Target struct {
	Path         string `json:"-"`    // in the repository of targets
	Name         string `json:"name"` // "loopback-agent"
	Version      string `json:"version"`
	OS           string `json:"os"`   // as Go names it
	Architecture string `json:"arch"` // as Go names it
	Channel      string `json:"channel"`
	Format       string `json:"format,omitempty"`
	Length       int64  `json:"-"`
	SHA256       []byte `json:"-"`
}

// TargetPath is where a program lies.
func TargetPath(name, version, os, arch string) string {
	return fmt.Sprintf("%s/%s/%s-%s/%s", name, version, os, arch, name)
}

// FilePath is where the target lies: beside its program, under the name that its format gives it.
func (t Target) FilePath() string {
	return fmt.Sprintf("%s/%s/%s-%s/%s", t.Name, t.Version, t.OS, t.Architecture, FileName(t.Name, t.Version, t.Architecture, t.Format))
}

// FileName is what a program's file of this format is called.
func FileName(name, version, arch, format string) string {
	switch format {
	case FormatProgram:
		return name
	case FormatDeb:
		return fmt.Sprintf("%s_%s_%s.deb", name, PackageVersion(version), arch)
	case FormatRPM:
		return fmt.Sprintf("%s-%s-1.%s.rpm", name, PackageVersion(version), RPMArchitecture(arch))
	default:
		return name + "." + format
	}
}

// PackageVersion is a version as dpkg and rpm order it: both let '~' come before everything, as a pre-release does.
func PackageVersion(version string) string {
	number, build, built := strings.Cut(version, "+")
	core, pre, early := strings.Cut(number, "-")
	if early {
		core += "~" + strings.ReplaceAll(pre, "-", ".")
	}
	if built {
		core += "+" + strings.ReplaceAll(build, "-", ".")
	}
	return core
}

// RPMArchitecture is rpm's name for an architecture that Go names.
func RPMArchitecture(arch string) string {
	switch arch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	default:
		return arch
	}
}

// Release is one version of one program on a channel.
type Release struct {
	tenant.Meta // Name is "loopback-agent 1.2.3"
	Program     string
	Version     string
	Channel     string
	PublishedAt time.Time
	Targets     []Target
}

var version = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?$`)

// ValidVersion tells whether v is a semantic version without a leading "v".
func ValidVersion(v string) bool { return len(v) <= 128 && version.MatchString(v) }

// ErrBlobChanged is a Conflict: a key holds another version than the one that was built upon.
var ErrBlobChanged = fault.New(fault.Conflict, "release_conflict", "somebody else published meanwhile").
	WithHint("run the publication again: it then starts from what is there now")

// Blob is a stored file of the repository. Its version differs from that of every other content it had or will have.
type Blob struct {
	Key      string // "artefacts/<sha256>"
	Version  string
	Size     int64
	Modified time.Time
}
