package host

import (
	"cmp"
	"slices"
	"time"
)

// Trouble is what stands, or stood, in a host's way, in the codes of `loopback-agent doctor` (docs/guides/troubleshooting.md).
type Trouble struct {
	Code     string    `json:"code"`
	Message  string    `json:"message,omitempty"`
	At       time.Time `json:"at"`                 // ongoing: since when; else when it was last met
	Attempts int64     `json:"attempts,omitempty"` // that failed because of it
	Ongoing  bool      `json:"ongoing,omitempty"`  // it is there now
}

// MaxTroubles that are kept of a host: the latest.
const MaxTroubles = 16

// bearable troubles do not make a host degraded while they last: all works now, by another way or until later.
var bearable = []string{"websocket_blocked", "disk_low", "unit_missing", "unit_disabled"}

// Degrades tells whether the host is less than managed because of it.
func (t Trouble) Degrades() bool { return t.Ongoing && !slices.Contains(bearable, t.Code) }

// MetTrouble is the list with what was met. Each code is there once.
func MetTrouble(list []Trouble, met ...Trouble) []Trouble {
	out := slices.Clone(list)
	for _, t := range met {
		t.Ongoing = false
		i := slices.IndexFunc(out, func(o Trouble) bool { return o.Code == t.Code })
		switch {
		case i < 0:
			out = append(out, t)
		case out[i].Ongoing:
			out[i].Attempts = max(out[i].Attempts, t.Attempts) // since when it is there says more
		default:
			out[i] = t
		}
	}
	return latest(out)
}

// OngoingTroubles is the list where exactly these are there now: those that are not any more remain as what was met.
func OngoingTroubles(list, now []Trouble) []Trouble {
	out := slices.Clone(list)
	for i := range out {
		out[i].Ongoing = out[i].Ongoing && slices.ContainsFunc(now, func(n Trouble) bool { return n.Code == out[i].Code })
	}
	for _, n := range now {
		n.Ongoing = true
		i := slices.IndexFunc(out, func(o Trouble) bool { return o.Code == n.Code })
		switch {
		case i < 0:
			out = append(out, n)
		case out[i].Ongoing:
			n.At, n.Attempts = out[i].At, max(out[i].Attempts, n.Attempts)
			out[i] = n
		default:
			out[i] = n
		}
	}
	return latest(out)
}

// SameOngoing tells whether the codes of what is there now are these. Messages are not compared: a number in one changes
// with every look.
func SameOngoing(list, now []Trouble) bool {
	ongoing := func(l []Trouble) (codes []string) {
		for _, t := range l {
			codes = append(codes, t.Code)
		}
		slices.Sort(codes)
		return slices.Compact(codes)
	}
	return slices.Equal(ongoing(slices.DeleteFunc(slices.Clone(list), func(t Trouble) bool { return !t.Ongoing })), ongoing(now))
}

// latest bounds a list: what is there now comes first, then what was met, the newest first.
func latest(list []Trouble) []Trouble {
	slices.SortStableFunc(list, func(a, b Trouble) int {
		if a.Ongoing != b.Ongoing {
			if a.Ongoing {
				return -1
			}
			return 1
		}
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Code, b.Code))
	})
	return slices.Clip(list[:min(len(list), MaxTroubles)])
}
