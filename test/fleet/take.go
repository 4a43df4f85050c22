package fleet

import (
	"context"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
)

// take handles a frame that is no pulse.
func (s *Session) take(ctx context.Context, f *pb.ServerFrame) error {
	a := s.agent
	switch body := f.Body.(type) {
	case *pb.ServerFrame_Standing:
		a.mu.Lock()
		a.standing = body.Standing.Standing
		a.mu.Unlock()
		a.count(func(*Counts) {})
	case *pb.ServerFrame_Order:
		if a.Exec != nil {
			go a.Exec(ctx, Order{body.Order, a.Dialer, s})
		}
	case *pb.ServerFrame_Shell:
		if a.Shell != nil {
			go a.Shell(ShellOrder{body.Shell, a.Dialer, s})
		}
	case *pb.ServerFrame_OrderWord:
		if a.Word != nil {
			a.Word(body.OrderWord)
		}
	case *pb.ServerFrame_SectionWanted:
		held := a.Holds(body.SectionWanted.GetName())
		m := &pb.SectionWhole{Name: held.Name, Revision: revisionOut(held.Revision), Digest: held.Digest[:]}
		for _, it := range held.Items {
			m.Items = append(m.Items, &pb.SectionItem{Key: it.Key, Value: it.Value})
		}
		return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_SectionHeld{SectionHeld: m}})
	case *pb.ServerFrame_Challenge, *pb.ServerFrame_Rekey, *pb.ServerFrame_KeyAccepted, *pb.ServerFrame_Split, *pb.ServerFrame_Enrolled:
		return s.takeKey(ctx, f)
	case *pb.ServerFrame_Section:
		return s.whole(ctx, body.Section)
	case *pb.ServerFrame_SectionPart:
		m := body.SectionPart
		if s.parts = append(s.parts, m.GetItems()...); m.GetPart()+1 < m.GetParts() {
			return nil
		}
		items := s.parts
		s.parts = nil
		return s.whole(ctx, &pb.SectionWhole{Name: m.GetName(), Revision: m.GetRevision(), Digest: m.GetDigest(), Items: items})
	case *pb.ServerFrame_SectionDelta:
		m := body.SectionDelta
		held := a.Holds(m.GetName())
		got, err := held.Apply(deltaIn(m))
		if err != nil {
			a.count(func(c *Counts) { c.Mismatches++ })
			return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_SectionRequest{SectionRequest: &pb.SectionRequest{
				Name: m.GetName(), Held: revisionOut(held.Revision)}}})
		}
		a.count(func(c *Counts) { c.Deltas++ })
		return s.apply(ctx, got)
	}
	return nil
}

func (s *Session) whole(ctx context.Context, m *pb.SectionWhole) error {
	got, err := section.New(m.GetName(), revisionIn(m.GetRevision()), itemsIn(m.GetItems()))
	if err != nil || string(got.Digest[:]) != string(m.GetDigest()) {
		return s.report(ctx, section.Status{Name: m.GetName(), Revision: revisionIn(m.GetRevision()), State: section.Failed,
			Message: "the section does not match its digest"})
	}
	s.agent.count(func(c *Counts) { c.Wholes++ })
	return s.apply(ctx, got)
}

func (s *Session) apply(ctx context.Context, got section.Section) error {
	a := s.agent
	status := section.Status{State: section.Applied, AppliedAt: time.Now()}
	if a.Apply != nil {
		status = a.Apply(got)
	}
	status.Name, status.Revision, status.Digest = got.Name, got.Revision, got.Digest
	a.mu.Lock()
	if a.held == nil {
		a.held = map[string]holding{}
	}
	if old := a.held[got.Name]; status.State == section.Failed {
		status.Digest = old.section.Digest
		a.held[got.Name] = holding{old.section, status}
	} else {
		a.held[got.Name] = holding{got, status}
	}
	a.mu.Unlock()
	err := s.report(ctx, status)
	if a.Reported != nil && err == nil {
		a.Reported(status)
	}
	a.count(func(*Counts) {})
	return err
}

func (s *Session) report(ctx context.Context, status section.Status) error {
	return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_SectionReport{SectionReport: &pb.SectionReport{Section: heldOut(status)}}})
}
