package link

import (
	"context"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// maxShown bounds a section that is shown: it goes in one frame.
const maxShown = 768 << 10

// showSection sends a section as this host holds it. It is asked for where this host is ahead of its control plane, whose
// operator decided that what is here wins.
func (s *session) showSection(ctx context.Context, name string) error {
	v, ok := s.options.Held(name)
	if !ok {
		return nil
	}
	m := &pb.SectionWhole{Name: v.Name, Revision: revisionOut(v.Revision), Digest: v.Digest[:]}
	for _, it := range v.Items {
		m.Items = append(m.Items, &pb.SectionItem{Key: it.Key, Value: it.Value})
	}
	if proto.Size(m) > maxShown {
		s.log.Warn("the control plane asks for a section that is too large to be shown", "section", name)
		return nil
	}
	s.log.Info("the control plane takes a section over from this host", "section", name, "revision", v.Revision)
	return s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_SectionHeld{SectionHeld: m}})
}
