package host

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Clones is what is known of the machines that hold copies of one host's identity key.
//
//	          both answer a challenge              an operator keeps one            the kept one has a new key
//	single ───────────────────────────▶ locked ────────────────────────▶ decided ─────────────────────────────▶ fenced
//	                                      ▲  a boot that nobody decided on  │
//	                                      └─────────────────────────────────┘
//
// While copies hold the same key, what tells them apart is the boot that each of them is in. That lasts until the kept one
// has made itself a new key: from then on the old key alone says who comes, whatever boots it has been through.
type Clones struct {
	Since     time.Time `json:"since"`               // when they were found out
	Lifecycle Lifecycle `json:"lifecycle,omitempty"` // that the host had before, and gets back
	Reason    string    `json:"reason,omitempty"`
	Copies    []Copy    `json:"copies,omitempty"` // by when they were first seen; none once fenced
	Fences    []Fence   `json:"fences,omitempty"`
}

// Copy is one machine that holds the key, in one boot. All but Verdict is what it claims.
type Copy struct {
	BootID       string    `json:"bootId"`
	Address      string    `json:"address,omitempty"` // where its link came from
	HostName     string    `json:"hostName,omitempty"`
	MachineID    string    `json:"machineId,omitempty"`
	AgentVersion string    `json:"agentVersion,omitempty"`
	SeenAt       time.Time `json:"seenAt"` // first
	Verdict      Verdict   `json:"verdict"`
}

// Fence is a key that the host left behind to others.
type Fence struct {
	Key     []byte  `json:"key"` // SHA-256
	Verdict Verdict `json:"verdict"`
}

// Verdict on whoever holds a key of the host in some boot.
type Verdict string

// The verdicts. Operators pass the last three.
const (
	Single    Verdict = ""          // nothing is known against it
	Undecided Verdict = "undecided" // one of several, and nobody said yet which is the host
	Stranger  Verdict = "stranger"  // it holds the key of several, in a boot that nobody has seen
	Kept      Verdict = "kept"      // it goes on as the host
	SplitOff  Verdict = "split"     // it becomes a host of its own
	Dropped   Verdict = "dropped"   // it is refused for good
)

// ReasonCloned begins the reason for which a host is locked that several machines answered for.
const ReasonCloned = "cloned"

// maxCopies bounds what is kept of machines that come and go under one key.
const maxCopies = 16

// Of is the verdict on who holds the key of this SHA-256, in this boot.
func (c *Clones) Of(key [sha256.Size]byte, bootID string) Verdict {
	if c == nil {
		return Single
	}
	for _, f := range c.Fences {
		if string(f.Key) == string(key[:]) {
			return f.Verdict
		}
	}
	if len(c.Copies) == 0 {
		return Single
	}
	for _, one := range c.Copies {
		if one.BootID == bootID {
			return one.Verdict
		}
	}
	return Stranger
}

// Locked tells whether somebody has to decide.
func (c *Clones) Locked() bool {
	return c != nil && slices.ContainsFunc(c.Copies, func(one Copy) bool { return one.Verdict == Undecided })
}

// Equal compares.
func (c *Clones) Equal(other *Clones) bool {
	if c == nil || other == nil {
		return c == other
	}
	return c.Since.Equal(other.Since) && c.Lifecycle == other.Lifecycle && c.Reason == other.Reason &&
		slices.EqualFunc(c.Copies, other.Copies, func(a, b Copy) bool {
			same := a.SeenAt.Equal(b.SeenAt)
			a.SeenAt, b.SeenAt = time.Time{}, time.Time{}
			return same && a == b
		}) &&
		slices.EqualFunc(c.Fences, other.Fences, func(a, b Fence) bool { return string(a.Key) == string(b.Key) && a.Verdict == b.Verdict })
}

// Lock takes in that these machines answered for the host, and leaves it to its operators. It tells whether that is news.
func (h *Host) Lock(found []Copy, now time.Time) bool {
	var next Clones
	if h.Clones != nil {
		next = *h.Clones
		next.Copies = slices.Clone(next.Copies)
	}
	if len(next.Copies) == 0 {
		next.Since, next.Lifecycle, next.Reason = now, h.Lifecycle, h.LifecycleReason
	}
	news := false
	for _, one := range found {
		if i := slices.IndexFunc(next.Copies, func(have Copy) bool { return have.BootID == one.BootID }); i >= 0 {
			next.Copies[i].fill(one)
			continue
		}
		one.SeenAt, one.Verdict, news = now, Undecided, true
		next.Copies = append(next.Copies, one)
	}
	if news {
		for i := range next.Copies { // which of them is the host is open again
			if next.Copies[i].Verdict == Kept {
				next.Copies[i].Verdict = Undecided
			}
		}
		next.Copies = next.Copies[max(0, len(next.Copies)-maxCopies):]
	}
	if next.Equal(h.Clones) || !next.Locked() {
		return false
	}
	// A key that was offered and not used may be among what was copied: the kept one makes itself another.
	h.Clones, h.NextKey = &next, nil
	if h.Lifecycle == LifecycleActive {
		h.Lifecycle = LifecycleQuarantined
	}
	h.LifecycleReason = next.reason()
	return true
}

// fill adds what was not known of a copy.
func (c *Copy) fill(from Copy) {
	for _, f := range []struct{ to, from *string }{
		{&c.Address, &from.Address}, {&c.HostName, &from.HostName}, {&c.MachineID, &from.MachineID}, {&c.AgentVersion, &from.AgentVersion},
	} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
}

func (c *Clones) reason() string {
	var where []string
	for _, one := range c.Copies {
		if one.Verdict == Undecided {
			where = append(where, strings.TrimSpace(one.HostName+" "+one.Address))
		}
	}
	const few = 3
	if more := len(where) - few; more > 0 {
		where = append(where[:few], fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("%s: several machines hold its identity key (%s); split them, or drop one", ReasonCloned, strings.Join(where, ", "))
}

// Decide keeps one copy as the host and passes the same verdict, SplitOff or Dropped, on all others. The host stands as it
// stood before it was locked.
func (h *Host) Decide(keep string, others Verdict) error {
	if !h.Clones.Locked() {
		return fault.New(fault.Precondition, "host_not_cloned", "host %s is not locked as cloned: it is %s", h.Name, h.State)
	}
	kept, err := h.Copy(keep)
	if err != nil {
		return err
	}
	next := *h.Clones
	next.Copies = slices.Clone(next.Copies)
	for i := range next.Copies {
		next.Copies[i].Verdict = others
		if next.Copies[i].BootID == kept.BootID {
			next.Copies[i].Verdict = Kept
		}
	}
	h.Clones, h.Lifecycle, h.LifecycleReason = &next, next.Lifecycle, next.Reason
	return nil
}

// minBootPrefix is how much of a boot id names a copy.
const minBootPrefix = 4

// Copy is the one that an operator names: by its boot id or the beginning of it, by its address, or by its host name.
func (h *Host) Copy(name string) (Copy, error) {
	var copies []Copy
	if h.Clones != nil {
		copies = h.Clones.Copies
	}
	var found []Copy
	for _, one := range copies {
		if one.BootID == name && name != "" {
			return one, nil
		}
		if one.named(name) {
			found = append(found, one)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Copy{}, fault.New(fault.NotFound, "copy_not_found", "host %s has no copy %q", h.Name, name).
			WithHint("name one by its boot id, address or host name: %s", names(copies))
	default:
		return Copy{}, fault.New(fault.Invalid, "copy_ambiguous", "%d copies of host %s are meant by %q", len(found), h.Name, name).
			WithHint("name one by its boot id: %s", names(found))
	}
}

func (c Copy) named(name string) bool {
	if name == "" {
		return false
	}
	asked, err := netip.ParseAddr(name)
	have, _ := netip.ParseAddr(c.Address)
	return err == nil && asked.Unmap() == have.Unmap() || name == c.HostName ||
		len(name) >= minBootPrefix && strings.HasPrefix(c.BootID, name)
}

func names(copies []Copy) string {
	out := make([]string, len(copies))
	for i, one := range copies {
		out[i] = strings.TrimSpace(one.BootID + " (" + strings.TrimSpace(one.HostName+" "+one.Address) + ")")
	}
	return strings.Join(out, ", ")
}

// Fence leaves the host's key to the copies that were decided on: it is called where the kept one takes a new key.
func (h *Host) Fence() {
	if h.Clones == nil || len(h.Clones.Copies) == 0 {
		return
	}
	next := Clones{Since: h.Clones.Since, Fences: slices.Clone(h.Clones.Fences)}
	sum := sha256.Sum256(h.Key)
	verdict := Dropped // to be refused is the worst that a copy can meet
	for _, one := range h.Clones.Copies {
		if one.Verdict == SplitOff {
			verdict = SplitOff
		}
	}
	next.Fences = append(next.Fences, Fence{Key: sum[:], Verdict: verdict})
	h.Clones = &next
}
