package link

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
)

// MaxFrame is the largest frame that goes over a link, in bytes.
const MaxFrame = 1 << 20

// Compiled is one value of a section, with the frame that carries it whole: encoded once, sent to all that see the same.
type Compiled struct {
	section.Section
	Whole []byte // a ServerFrame; never changed
}

// Compile encodes a section. One that does not fit into a frame is Invalid.
func Compile(s section.Section) (*Compiled, error) {
	b, err := proto.Marshal(&pb.ServerFrame{Body: &pb.ServerFrame_Section{Section: &pb.SectionWhole{
		Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], Items: itemsOut(s.Items),
	}}})
	if err != nil {
		return nil, fault.New(fault.Internal, "section_encoding", "the section %s cannot be encoded", s.Name).WithCause(err)
	}
	if len(b) > MaxFrame {
		return nil, fault.New(fault.Invalid, "section_too_large", "the section %s takes %d bytes; at most %d can be sent", s.Name, len(b), MaxFrame)
	}
	return &Compiled{s, b}, nil
}

func itemsOut(items []section.Item) []*pb.SectionItem {
	out := make([]*pb.SectionItem, len(items))
	for i, it := range items {
		out[i] = &pb.SectionItem{Key: it.Key, Value: it.Value}
	}
	return out
}

func revisionOut(r section.Revision) *pb.SectionRevision {
	return &pb.SectionRevision{Epoch: r.Epoch, Number: r.Number}
}
