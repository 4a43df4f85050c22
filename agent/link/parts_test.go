package link

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
)

// inParts cuts a section into n parts.
func inParts(t testing.TB, number uint64, items, n int) (section.Section, []*pb.SectionPart) {
	t.Helper()
	var all []section.Item
	for i := range items {
		all = append(all, section.Item{Key: fmt.Sprint("key-", i), Value: []byte{byte(i)}})
	}
	s, err := section.New("mesh", section.Revision{Epoch: 1, Number: number}, all)
	if err != nil {
		t.Fatal(err)
	}
	var out []*pb.SectionPart
	for i := range n {
		p := &pb.SectionPart{Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], Part: uint32(i), Parts: uint32(n)}
		for _, it := range s.Items[i*items/n : (i+1)*items/n] {
			p.Items = append(p.Items, &pb.SectionItem{Key: it.Key, Value: it.Value})
		}
		out = append(out, p)
	}
	return s, out
}

func TestPartsMakeTheSectionThatTheyWereCutFrom(t *testing.T) {
	var p parts
	for round, n := range []int{1, 2, 7, maxParts} {
		want, cut := inParts(t, uint64(round+1), 300, n)
		for i, m := range cut {
			whole, err := p.add(m)
			if err != nil || (whole != nil) != (i == n-1) {
				t.Fatalf("after part %d of %d: %v, %v", i, n, whole, err)
			}
			if whole != nil {
				got, err := section.New(whole.Name, whole.Revision, whole.Items)
				if err != nil || got.Digest != want.Digest || whole.Digest != want.Digest {
					t.Errorf("%d parts make another section: %v", n, err)
				}
			}
		}
		if p.begun != nil || p.items != nil {
			t.Error("what is complete is still held")
		}
	}
}

func TestANewerSectionTakesThePlaceOfOneUnderWay(t *testing.T) {
	var p parts
	_, older := inParts(t, 1, 10, 3)
	want, newer := inParts(t, 2, 10, 2)
	for _, m := range []*pb.SectionPart{older[0], older[1], newer[0]} {
		if whole, err := p.add(m); whole != nil || err != nil {
			t.Fatalf("got %v, %v", whole, err)
		}
	}
	if whole, err := p.add(newer[1]); err != nil || whole == nil || whole.Revision != want.Revision || len(whole.Items) != 10 {
		t.Errorf("got %v, %v", whole, err)
	}
}

func TestPartsThatDoNotBelongTogetherAreGivenUpOnce(t *testing.T) {
	_, one := inParts(t, 1, 10, 4)
	_, other := inParts(t, 2, 10, 4)
	change := func(by func(*pb.SectionPart)) *pb.SectionPart {
		m := proto.Clone(one[1]).(*pb.SectionPart)
		by(m)
		return m
	}
	for name, second := range map[string]*pb.SectionPart{
		"one left out":      one[2],
		"another revision":  other[1],
		"another name":      change(func(m *pb.SectionPart) { m.Name = "firewall" }),
		"another digest":    change(func(m *pb.SectionPart) { m.Digest = make([]byte, 32) }),
		"another count":     change(func(m *pb.SectionPart) { m.Parts = 5 }),
		"more than allowed": change(func(m *pb.SectionPart) { m.Parts = maxParts + 1 }),
		"too much":          change(func(m *pb.SectionPart) { m.Items = []*pb.SectionItem{{Key: "k", Value: make([]byte, section.MaxSize)}} }),
	} {
		var p parts
		if _, err := p.add(one[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := p.add(second); err == nil {
			t.Errorf("%s: taken", name)
		}
		if p.items != nil {
			t.Errorf("%s: what was given up is still held", name)
		}
		if whole, err := p.add(one[3]); whole != nil || err != nil {
			t.Errorf("%s: a further part gives %v, %v; want it passed over", name, whole, err)
		}
	}
}

// FuzzParts: whatever comes, nothing panics, what is held stays within the limits of a section, and a section comes out
// only of all its parts in order. The oracle keeps every part since the last first one.
func FuzzParts(f *testing.F) {
	_, cut := inParts(f, 1, 20, 3)
	var all []byte
	for _, m := range cut {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		all = append(append(all, byte(len(b))), b...)
	}
	f.Add(all, uint64(1))
	f.Add(all[:60], uint64(2))
	f.Add([]byte{2, 0x20, 1, 0}, uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		var p parts
		var since []*pb.SectionPart
		for len(stream) > 0 {
			n := min(int(stream[0]), len(stream)-1)
			m := &pb.SectionPart{}
			if proto.Unmarshal(stream[1:1+n], m) != nil {
				m = cut[random.IntN(len(cut))]
			}
			stream = stream[1+n:]
			if m.GetPart() == 0 {
				since = nil
			}
			since = append(since, m)
			whole, err := p.add(m)
			if p.size > section.MaxSize || len(p.items) > section.MaxItems || (err != nil && p.begun != nil) {
				t.Fatalf("holds %d bytes in %d items after %v", p.size, len(p.items), err)
			}
			if whole == nil {
				continue
			}
			var want []section.Item
			for i, s := range since {
				if s.GetPart() != uint32(i) || s.GetParts() != uint32(len(since)) || s.GetName() != whole.Name || !bytes.Equal(s.GetDigest(), m.GetDigest()) {
					t.Fatalf("a section was made of part %d/%d in place %d of %d", s.GetPart(), s.GetParts(), i, len(since))
				}
				want = append(want, itemsIn(s.GetItems())...)
			}
			if len(want) != len(whole.Items) {
				t.Fatalf("the section has %d items, its parts %d", len(whole.Items), len(want))
			}
		}
	})
}
