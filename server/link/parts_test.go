package link_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
)

// large is a section of n items with values of so many bytes.
func large(t *testing.T, number uint64, n, size int) section.Section {
	t.Helper()
	items := make([]section.Item, n)
	for i := range items {
		items[i] = section.Item{Key: fmt.Sprintf("peer-%06d", i), Value: bytes.Repeat([]byte{byte(i)}, size)}
	}
	s, err := section.New("mesh", section.Revision{Epoch: 1, Number: number}, items)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parts are what came of a section in parts.
func parts(frames []*pb.ServerFrame) (out []*pb.SectionPart) {
	for _, f := range frames {
		if p := f.GetSectionPart(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

func TestASectionThatExceedsAFrameIsCutIntoPartsThatFit(t *testing.T) {
	for _, size := range []struct{ n, bytes int }{{100_000, 140}, {63, section.MaxValue}, {9, 200 << 10}, {1100, 1000}} {
		whole := large(t, 1, size.n, size.bytes)
		c, err := link.Compile(whole)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Whole) < 2 {
			t.Errorf("%d × %d bytes went into %d frame", size.n, size.bytes, len(c.Whole))
		}
		total := 0
		for i, f := range c.Whole {
			if total += len(f); len(f) > link.MaxFrame {
				t.Errorf("part %d of %d × %d has %d bytes", i, size.n, size.bytes, len(f))
			}
		}
		if total != c.Size {
			t.Errorf("the size is %d, of frames that take %d", c.Size, total)
		}
	}
	most := large(t, 1, 64, section.MaxValue-100)
	most.Items = append(most.Items, section.Item{Key: "zz", Value: make([]byte, 200<<10)})
	if _, err := link.Compile(most); fault.Of(err).Code != "section_too_large" {
		t.Errorf("a section of %d bytes: %v, wanted section_too_large", most.Size(), err)
	}
}

func TestALargeSectionGoesOutInPartsAndItsChangesAsADelta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		m.parts = true
		l, _ := b.linked(m)
		l.heard()
		first := large(t, 2, 3000, 1000)
		if err := b.fleet.WantOf(m.id, first); err != nil {
			t.Fatal(err)
		}
		got := parts(l.heard())
		var all []section.Item
		for i, p := range got {
			if p.Part != uint32(i) || p.Parts != uint32(len(got)) || !bytes.Equal(p.Digest, first.Digest[:]) || p.Revision.Number != 2 {
				t.Errorf("part %d says that it is %d of %d, of revision %v", i, p.Part, p.Parts, p.Revision)
			}
			all = append(all, items(p.Items)...)
		}
		together, err := section.New("mesh", first.Revision, all)
		if err != nil || together.Digest != first.Digest {
			t.Fatalf("%d parts make no section: %v", len(got), err)
		}
		l.say(reportOf(&link.Compiled{Section: first}, section.Applied, ""))
		second := large(t, 3, 3001, 1000)
		if err := b.fleet.WantOf(m.id, second); err != nil {
			t.Fatal(err)
		}
		if d := delta(l.heard()); d == nil || len(d.Put) != 1 {
			t.Errorf("one item more was sent as %v", d)
		}
	})
}

// Agents of the previous build say nothing of parts. What fits reaches them as ever, and what does not fails with a reason.
func TestAnAgentThatKnowsNoPartsIsToldWhyItGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		small := large(t, 2, 1000, 1000)
		if err := b.fleet.WantOf(m.id, small); err != nil {
			t.Fatal(err)
		}
		if got := l.heard(); len(got) != 1 || got[0].GetSection().GetRevision().GetNumber() != 2 {
			t.Fatalf("a section that fits came as %d frames", len(got))
		}
		l.say(reportOf(&link.Compiled{Section: small}, section.Applied, ""))
		tooLarge := large(t, 3, 3000, 1000)
		b.fleet.WantOf(m.id, tooLarge)
		l.Close(nil) // what it holds is not remembered as a base any more where it comes back with nothing
		l, _ = b.linked(m)
		if got := l.heard(); len(parts(got)) != 0 {
			t.Errorf("%d parts were sent to an agent that knows none", len(parts(got)))
		}
		if s := observed(b, m, "mesh"); s.State != section.Failed || s.Revision != tooLarge.Revision || !strings.Contains(s.Message, "update the agent") {
			t.Errorf("got status %+v, wanted failed and what to do", s)
		}
		next := large(t, 4, 10, 10)
		b.fleet.WantOf(m.id, next)
		if got := l.heard(); len(got) != 1 || revisionIn(got[0]) != 4 {
			t.Errorf("the next value, which fits, came as %v", got)
		}
	})
}
