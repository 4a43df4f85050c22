package section

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
)

// contents draws a section's items; few keys, so that two draws share some.
func contents(t *rapid.T, label string) []Item {
	m := rapid.MapOfN(rapid.StringMatching(`[a-e]{1,2}`), rapid.SliceOfN(rapid.Byte(), 0, 4), 0, 12).Draw(t, label)
	var out []Item
	for k, v := range m {
		out = append(out, Item{k, v})
	}
	return out
}

func build(t *rapid.T, number uint64, items []Item) Section {
	s, err := New("x", Revision{1, number}, items)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func same(a, b Section) bool {
	return a.Name == b.Name && a.Revision == b.Revision && a.Digest == b.Digest &&
		fmt.Sprint(a.Items) == fmt.Sprint(b.Items)
}

// A delta leads from any value to any other, and the digest that it arrives at is the one of a value made anew.
func TestADeltaLeadsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := build(t, 1, contents(t, "from")), build(t, 2, contents(t, "to"))
		got, err := from.Apply(Diff(from, to))
		if err != nil || !same(got, to) {
			t.Fatalf("from %v\n  to %v\n got %v (%v)", from, to, got, err)
		}
	})
}

// A delta that was meant for another value, or that was changed on the way, is refused and leaves what is held alone.
func TestAnotherDeltaIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to, held := build(t, 1, contents(t, "from")), build(t, 2, contents(t, "to")), build(t, 1, contents(t, "held"))
		d := Diff(from, to)
		before := fmt.Sprint(held)
		got, err := held.Apply(d)
		switch {
		case held.Digest == from.Digest && err == nil && same(got, to):
		case held.Digest != from.Digest && errors.Is(err, ErrMismatch):
		default:
			t.Fatalf("held %v, delta %v: got %v, %v", held, d, got, err)
		}
		if fmt.Sprint(held) != before {
			t.Fatalf("what is held changed")
		}
		d.Put = append(d.Put, Item{"forged", []byte("x")})
		if _, err := from.Apply(d); !errors.Is(err, ErrMismatch) {
			t.Fatalf("a forged item was taken: %v", err)
		}
	})
}

func TestTheDigestKnowsNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := contents(t, "items")
		shuffled := rapid.Permutation(items).Draw(t, "shuffled")
		if a, b := build(t, 1, items), build(t, 1, shuffled); a.Digest != b.Digest {
			t.Fatalf("%v and %v differ", a.Digest, b.Digest)
		}
	})
}

// Keys and values cannot be moved between each other without the digest showing it.
func TestTheDigestSeparatesKeyFromValue(t *testing.T) {
	a, _ := New("x", Revision{}, []Item{{"ab", []byte("c")}})
	b, _ := New("x", Revision{}, []Item{{"a", []byte("bc")}})
	if a.Digest == b.Digest {
		t.Error("a shifted boundary has the same digest")
	}
}

func TestLimits(t *testing.T) {
	for name, items := range map[string][]Item{
		"empty key":  {{"", nil}},
		"long key":   {{strings.Repeat("k", MaxKey+1), nil}},
		"long value": {{"k", bytes.Repeat([]byte{0}, MaxValue+1)}},
		"twice":      {{"k", nil}, {"k", []byte("2")}},
		"too many":   make([]Item, MaxItems+1),
	} {
		if _, err := New("x", Revision{1, 1}, items); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: got %v, want an invalid argument", name, err)
		}
	}
}

func TestRevisionsOrderByEpochFirst(t *testing.T) {
	if (Revision{2, 1}).Compare(Revision{1, 99}) <= 0 || (Revision{1, 2}).Compare(Revision{1, 1}) <= 0 || (Revision{1, 1}).Compare(Revision{1, 1}) != 0 {
		t.Error("revisions are out of order")
	}
}

func TestGet(t *testing.T) {
	s, _ := New("x", Revision{1, 1}, []Item{{"b", []byte("2")}, {"a", []byte("1")}})
	if v, ok := s.Get("a"); !ok || string(v) != "1" {
		t.Errorf("got %q, %v", v, ok)
	}
	if _, ok := s.Get("c"); ok {
		t.Error("found what is not there")
	}
}

func TestASectionIsNoLargerThanItMayBe(t *testing.T) {
	var items []Item
	for i := range MaxSize / MaxValue {
		items = append(items, Item{Key: string(rune('a'+i%26)) + string(rune('a'+i/26)), Value: make([]byte, MaxValue-2)})
	}
	most, err := New("mesh", Revision{Epoch: 1, Number: 1}, items)
	if err != nil || most.Size() != MaxSize {
		t.Fatalf("a section of %d bytes: %v", most.Size(), err)
	}
	more := append(items, Item{Key: "zz", Value: nil})
	if _, err := New("mesh", Revision{Epoch: 1, Number: 2}, more); err == nil {
		t.Error("a section of two bytes more is taken")
	}
	one, err := New("mesh", Revision{Epoch: 1, Number: 2}, more[len(more)-1:])
	if err != nil {
		t.Fatal(err)
	}
	d := Delta{Name: "mesh", Base: most.Revision, BaseDigest: most.Digest, Revision: one.Revision, Put: one.Items}
	if _, err := most.Apply(d); err == nil {
		t.Error("a delta to a section of two bytes more is taken")
	}
}
