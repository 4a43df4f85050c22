package fleet

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
)

func revisionIn(r *pb.SectionRevision) section.Revision {
	return section.Revision{Epoch: r.GetEpoch(), Number: r.GetNumber()}
}

func revisionOut(r section.Revision) *pb.SectionRevision {
	return &pb.SectionRevision{Epoch: r.Epoch, Number: r.Number}
}

func itemsIn(in []*pb.SectionItem) []section.Item {
	out := make([]section.Item, len(in))
	for i, it := range in {
		out[i] = section.Item{Key: it.GetKey(), Value: it.GetValue()}
	}
	return out
}

func deltaIn(m *pb.SectionDelta) section.Delta {
	d := section.Delta{Name: m.GetName(), Base: revisionIn(m.GetBase()), Revision: revisionIn(m.GetRevision()),
		Put: itemsIn(m.GetPut()), Delete: m.GetDelete()}
	copy(d.BaseDigest[:], m.GetBaseDigest())
	copy(d.Digest[:], m.GetDigest())
	return d
}

func heldOut(s section.Status) *pb.SectionHeld {
	out := &pb.SectionHeld{Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], State: string(s.State),
		Message: s.Message, Frozen: s.Frozen}
	if !s.AppliedAt.IsZero() {
		out.AppliedAt = timestamppb.New(s.AppliedAt)
	}
	return out
}
