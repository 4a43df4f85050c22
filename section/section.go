// Package section is desired state as a value.
//
// What a host should be is split into a few named sections (settings, mesh, firewall …). A Section is a set of items,
// each a key and opaque bytes that nobody on the way takes apart. Its Revision orders it among all values that this
// section of this host ever had; its Digest is the sum of its items' hashes. Both therefore cost what changed, not what
// exists: adding an item adds its hash to the digest, removing one subtracts it.
//
// A holder of one revision is brought to another by a Delta, which names the base that it applies to. Apply refuses a
// delta whose base is not what is held, and a result whose digest is not the one announced: the receiver then asks for
// the whole section. When the whole section does not match its digest either, the section has failed; sending it once
// more would change nothing.
//
// Revisions compare by epoch first. An epoch begins when a backup is restored: all numbers of the new epoch come after
// all of the old one, yet a host that reports the old epoch with a higher number than the backup knew was ahead, and its
// section is left as it is (Frozen) until an operator says who wins.
package section

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Limits that both ends keep.
const (
	MaxItems = 100_000
	MaxKey   = 256       // bytes
	MaxValue = 256 << 10 // bytes
	MaxSize  = 16 << 20  // bytes of all keys and values
)

// Revision is the place of a value in the history of one section of one host.
type Revision struct {
	Epoch  uint32 // one more at each restored backup
	Number uint64 // grows within an epoch; gaps are normal; 0 means that nothing was ever held
}

// Compare orders revisions in time.
func (r Revision) Compare(o Revision) int {
	return cmp.Or(cmp.Compare(r.Epoch, o.Epoch), cmp.Compare(r.Number, o.Number))
}

// IsZero tells whether nothing was ever held.
func (r Revision) IsZero() bool { return r == Revision{} }

// String is "epoch.number".
func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Number) }

// Digest identifies the contents of a section: the sum modulo 2^256 of SHA-256 over each item (little-endian lanes).
// It finds accidents, lost messages and defects; forgers are kept out by the sealed link that carries it.
type Digest [32]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// add returns d plus o, or d minus o.
func (d Digest) add(o Digest, minus bool) Digest {
	var carry uint64
	for i := 0; i < len(d); i += 8 {
		a, b := binary.LittleEndian.Uint64(d[i:]), binary.LittleEndian.Uint64(o[i:])
		if minus {
			a, carry = bits.Sub64(a, b, carry)
		} else {
			a, carry = bits.Add64(a, b, carry)
		}
		binary.LittleEndian.PutUint64(d[i:], a)
	}
	return d
}

// Item is one keyed, opaque part of a section.
type Item struct {
	Key   string
	Value []byte
}

// hash covers the key's length, so that no two items share an encoding.
func (i Item) hash() Digest {
	h := sha256.New()
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(i.Key)))
	h.Write(n[:])
	h.Write([]byte(i.Key))
	h.Write(i.Value)
	var d Digest
	h.Sum(d[:0])
	return d
}

// Section is one value of one part of a host's desired state. Treat it as immutable; New and Apply make them.
type Section struct {
	Name     string
	Revision Revision
	Digest   Digest
	Items    []Item // by key, each key once
}

// New makes a section of these items. It sorts them; a key that occurs twice, or a limit exceeded, is Invalid.
func New(name string, rev Revision, items []Item) (Section, error) {
	s := Section{Name: name, Revision: rev, Items: slices.Clone(items)}
	slices.SortFunc(s.Items, func(a, b Item) int { return cmp.Compare(a.Key, b.Key) })
	if len(items) > MaxItems {
		return Section{}, invalid("section %s has %d items, more than %d", name, len(items), MaxItems)
	}
	for i, it := range s.Items {
		if err := it.check(name); err != nil {
			return Section{}, err
		}
		if i > 0 && s.Items[i-1].Key == it.Key {
			return Section{}, invalid("section %s has the key %q twice", name, it.Key)
		}
		s.Digest = s.Digest.add(it.hash(), false)
	}
	if n := s.Size(); n > MaxSize {
		return Section{}, invalid("section %s takes %d bytes; at most %d are allowed", name, n, MaxSize)
	}
	return s, nil
}

// Size is how many bytes the keys and values take.
func (s Section) Size() int {
	n := 0
	for _, it := range s.Items {
		n += len(it.Key) + len(it.Value)
	}
	return n
}

func (i Item) check(section string) error {
	if i.Key == "" || len(i.Key) > MaxKey {
		return invalid("section %s has a key of %d bytes; 1 to %d are allowed", section, len(i.Key), MaxKey)
	}
	if len(i.Value) > MaxValue {
		return invalid("section %s has a value of %d bytes at %q; at most %d are allowed", section, len(i.Value), i.Key, MaxValue)
	}
	return nil
}

// Get finds the value of a key.
func (s Section) Get(key string) ([]byte, bool) {
	i, ok := slices.BinarySearchFunc(s.Items, key, func(it Item, k string) int { return cmp.Compare(it.Key, k) })
	if !ok {
		return nil, false
	}
	return s.Items[i].Value, true
}

// Delta brings a holder of one revision to another.
type Delta struct {
	Name       string
	Base       Revision
	BaseDigest Digest
	Revision   Revision
	Digest     Digest
	Put        []Item   // added or changed
	Delete     []string // keys removed
}

// Diff is the delta from one value of a section to another.
func Diff(from, to Section) Delta {
	d := Delta{Name: to.Name, Base: from.Revision, BaseDigest: from.Digest, Revision: to.Revision, Digest: to.Digest}
	a, b := from.Items, to.Items
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Key < b[0].Key:
			d.Delete = append(d.Delete, a[0].Key)
			a = a[1:]
		case len(a) == 0 || b[0].Key < a[0].Key:
			d.Put = append(d.Put, b[0])
			b = b[1:]
		default:
			if !bytes.Equal(a[0].Value, b[0].Value) {
				d.Put = append(d.Put, b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
	return d
}

// ErrMismatch says that a delta does not lead from what is held to what was announced. The remedy is the whole section.
var ErrMismatch = fault.New(fault.Conflict, "section_mismatch", "the section does not match its digest")

// Apply is the section after the delta; s is unchanged. It fails with ErrMismatch where the base is not s or the
// result is not what the delta announced.
func (s Section) Apply(d Delta) (Section, error) {
	if d.Name != s.Name || d.Base != s.Revision || d.BaseDigest != s.Digest {
		return Section{}, ErrMismatch
	}
	put := make(map[string]Item, len(d.Put))
	for _, it := range d.Put {
		if err := it.check(s.Name); err != nil {
			return Section{}, err
		}
		put[it.Key] = it
	}
	gone := make(map[string]bool, len(d.Delete))
	for _, k := range d.Delete {
		gone[k] = true
	}
	out := Section{Name: s.Name, Revision: d.Revision, Digest: s.Digest, Items: make([]Item, 0, len(s.Items)+len(d.Put))}
	for _, it := range s.Items {
		_, replaced := put[it.Key]
		if gone[it.Key] || replaced {
			out.Digest = out.Digest.add(it.hash(), true)
			continue
		}
		out.Items = append(out.Items, it)
	}
	for _, it := range put {
		out.Digest = out.Digest.add(it.hash(), false)
		out.Items = append(out.Items, it)
	}
	slices.SortFunc(out.Items, func(a, b Item) int { return cmp.Compare(a.Key, b.Key) })
	if out.Digest != d.Digest || len(out.Items) > MaxItems || out.Size() > MaxSize {
		return Section{}, ErrMismatch
	}
	return out, nil
}

// State is how far a host has come with a section.
type State string

// The states of a section on a host.
const (
	Pending  State = "pending"  // not yet answered
	Applied  State = "applied"  // the machine matches
	Failed   State = "failed"   // the machine keeps the last good value; Message says why
	Degraded State = "degraded" // applied in part; Message says what is missing
)

// Status is what a host reports about a section.
type Status struct {
	Name      string
	Revision  Revision // the revision that State speaks of
	Digest    Digest   // of the value that the host holds
	State     State
	AppliedAt time.Time // when the machine last came to match
	Message   string
	Frozen    bool // the host is ahead, or holds another value under this revision: an operator decides
}

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "section_invalid", format, args...)
}
