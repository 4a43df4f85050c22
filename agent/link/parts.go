package link

import (
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
)

// maxParts of a section; the control plane fills parts of half a MiB.
const maxParts = 256

// errPart says that parts do not make a section: the control plane is defective, and sending them again would not help.
var errPart = fault.New(fault.Invalid, "section_parts_invalid", "the parts of the section do not belong together, or exceed what a section may hold")

// parts puts a section together that does not fit into one frame. There is one at a time; what it holds is bounded by
// section's limits, and forgotten with the link.
type parts struct {
	begun *pb.SectionPart // the first; nil: none is under way
	next  uint32
	size  int
	items []section.Item
}

// add takes the next part. whole is the section once it is complete: neither its order nor its digest has been checked.
// An error is a verdict on the section, whose further parts are passed over.
func (p *parts) add(m *pb.SectionPart) (whole *section.Section, err error) {
	if m.GetPart() == 0 {
		*p = parts{begun: m} // what was under way was overtaken
	}
	if p.begun == nil {
		return nil, nil // of a section that was given up
	}
	if !p.follows(m) {
		*p = parts{}
		return nil, errPart
	}
	p.next++
	p.items = append(p.items, itemsIn(m.GetItems())...)
	for _, it := range m.GetItems() {
		p.size += len(it.GetKey()) + len(it.GetValue())
	}
	if p.size > section.MaxSize || len(p.items) > section.MaxItems {
		*p = parts{}
		return nil, errPart
	}
	if p.next < m.GetParts() {
		return nil, nil
	}
	whole = &section.Section{Name: m.GetName(), Revision: revisionIn(m.GetRevision()), Digest: digestIn(m.GetDigest()), Items: p.items}
	*p = parts{}
	return whole, nil
}

// follows tells whether a part is the next of what is under way.
func (p *parts) follows(m *pb.SectionPart) bool {
	b := p.begun
	return m.GetPart() == p.next && m.GetPart() < m.GetParts() && m.GetParts() <= maxParts && m.GetParts() == b.GetParts() &&
		m.GetName() == b.GetName() && revisionIn(m.GetRevision()) == revisionIn(b.GetRevision()) && string(m.GetDigest()) == string(b.GetDigest())
}

// part takes a part of a section, and hands the section on when it is complete.
func (s *session) part(m *pb.SectionPart) {
	whole, err := s.parts.add(m)
	switch {
	case err != nil:
		f := fault.Of(err)
		s.log.Error("a section came in parts that make no section", "section", m.GetName(), "error", f)
		s.troubles.note(f, time.Now())
		s.Report(section.Status{Name: m.GetName(), Revision: revisionIn(m.GetRevision()), State: section.Failed, Message: f.Message})
	case whole != nil:
		s.options.Host.Whole(*whole)
	}
}
