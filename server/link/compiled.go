package link

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
)

// Sizes of frames, in bytes.
const (
	MaxFrame = 1 << 20 // the largest that goes over a link
	partSize = 512 << 10
)

// Compiled is one value of a section, with the frames that carry it whole: encoded once, sent to all that see the same.
type Compiled struct {
	section.Section
	Whole [][]byte // ServerFrames, one or the parts in order; never changed
	Size  int      // of these frames, in bytes
}

// Compile encodes a section. One that does not fit into a frame is cut into parts; one that exceeds section.MaxSize is
// Invalid.
func Compile(s section.Section) (*Compiled, error) {
	if n := s.Size(); n > section.MaxSize {
		return nil, fault.New(fault.Invalid, "section_too_large", "the section %s takes %d bytes; at most %d can be sent", s.Name, n, section.MaxSize)
	} else if n > MaxFrame {
		return compileParts(s)
	}
	b, err := proto.Marshal(&pb.ServerFrame{Body: &pb.ServerFrame_Section{Section: &pb.SectionWhole{
		Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], Items: itemsOut(s.Items),
	}}})
	if err != nil {
		return nil, unencodable(s, err)
	}
	if len(b) > MaxFrame {
		return compileParts(s)
	}
	return &Compiled{s, [][]byte{b}, len(b)}, nil
}

func unencodable(s section.Section, err error) error {
	return fault.New(fault.Internal, "section_encoding", "the section %s cannot be encoded", s.Name).WithCause(err)
}

// compileParts fills part after part. An item is never cut: section.MaxValue is less than a part.
func compileParts(s section.Section) (*Compiled, error) {
	const around = 16 // bytes at most that an item takes beside its key and value
	var parts [][]*pb.SectionItem
	var begun []*pb.SectionItem
	room := partSize
	for _, it := range itemsOut(s.Items) {
		size := len(it.Key) + len(it.Value) + around
		if size > room && len(begun) > 0 {
			parts, begun, room = append(parts, begun), nil, partSize
		}
		begun, room = append(begun, it), room-size
	}
	parts = append(parts, begun)
	out := &Compiled{Section: s}
	for i, items := range parts {
		b, err := proto.Marshal(&pb.ServerFrame{Body: &pb.ServerFrame_SectionPart{SectionPart: &pb.SectionPart{
			Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], Part: uint32(i), Parts: uint32(len(parts)), Items: items,
		}}})
		if err != nil {
			return nil, unencodable(s, err)
		}
		out.Whole, out.Size = append(out.Whole, b), out.Size+len(b)
	}
	return out, nil
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
