package controltest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/wire"
)

// Receive acts on a frame.
func (l *Link) Receive(frame []byte) {
	f := &pb.AgentFrame{}
	if err := proto.Unmarshal(frame, f); err != nil {
		l.server.t.Errorf("the agent sent a frame that cannot be read: %v", err)
		return
	}
	if l.server.Hear != nil {
		l.server.Hear(l, f)
	}
	if l.host == "" {
		l.first(f)
		return
	}
	l.server.mu.Lock()
	h := l.server.hosts[l.host]
	answers := h.heard(f)
	l.server.tell()
	l.server.mu.Unlock()
	for _, a := range answers {
		l.Answer(a)
	}
	if r := f.GetSectionRequest(); r != nil {
		l.server.mu.Lock()
		v, ok := l.server.desired[r.Name]
		l.server.mu.Unlock()
		if ok {
			l.Answer(Whole(v))
		}
	}
}

// Closed notes that the host is away.
func (l *Link) Closed(error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if h := l.server.hosts[l.host]; h != nil && h.Link == l {
		h.Link = nil
		l.server.tell()
	}
}

// Answer sends a frame, unless it is to be lost.
func (l *Link) Answer(f *pb.ServerFrame) {
	if l.server.Lose != nil && l.server.Lose(f) {
		l.server.Cut()
		return
	}
	if l.server.Mute != nil && l.server.Mute(f) {
		return
	}
	b, err := proto.Marshal(f)
	if err != nil {
		l.server.t.Errorf("encode %v: %v", f, err)
		return
	}
	_ = l.Send(b) // a link that is gone is noticed by Closed
}

func (l *Link) first(f *pb.AgentFrame) {
	if l.server.Refuse != nil {
		if r := l.server.Refuse(f); r != nil {
			l.Answer(&pb.ServerFrame{Body: &pb.ServerFrame_Refusal{Refusal: r}})
			return
		}
	}
	switch {
	case f.GetEnrol() != nil:
		l.Answer(l.server.enrol(f.GetEnrol(), l.Hash()))
	case f.GetHello() != nil:
		l.mu.Lock() // nothing overtakes the welcome
		defer l.mu.Unlock()
		for _, a := range l.hello(f.GetHello()) {
			l.Answer(a)
		}
	default:
		l.server.t.Errorf("the first frame is %v; want enrol or hello", f)
	}
}

// Refusal is a frame that refuses.
func Refusal(code string, final bool, retry time.Duration) *pb.Refusal {
	return &pb.Refusal{Detail: &pb.ErrorDetail{Code: code, Hint: "do something", RetryAfter: durationpb.New(retry)}, Message: "no, because of " + code, Final: final}
}

func refuse(code string, final bool) *pb.ServerFrame {
	return &pb.ServerFrame{Body: &pb.ServerFrame_Refusal{Refusal: Refusal(code, final, 0)}}
}

func (s *Server) enrol(e *pb.Enrol, hash []byte) *pb.ServerFrame {
	if err := wire.VerifyProof(e.Proof, wire.RoleEnrol, "", hash); err != nil {
		return refuse("proof_invalid", true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var host *Host
	for _, h := range s.hosts {
		if h.Key.Equal(ed25519.PublicKey(e.Proof.PublicKey)) {
			host = h
		}
	}
	if host == nil {
		if _, err := token.ParseSecret(e.Token); err != nil {
			return refuse(token.ErrMalformed.Code, true)
		}
		s.uses++
		host = &Host{
			ID: fmt.Sprintf("hst_%026d", len(s.hosts)+1), Key: bytes.Clone(e.Proof.PublicKey), Generation: 1,
			Enrol: e, Standing: s.Standing, Held: map[string]*pb.SectionHeld{},
		}
		s.hosts[host.ID] = host
		s.tell()
	}
	return &pb.ServerFrame{Body: &pb.ServerFrame_Enrolled{Enrolled: &pb.Enrolled{
		HostId: host.ID, HostName: e.HostName, WorkspaceId: "ws_test", State: "enrolling", Channel: "stable"}}}
}

func (l *Link) hello(hello *pb.Hello) []*pb.ServerFrame {
	s := l.server
	if err := wire.VerifyProof(hello.Proof, wire.RoleHello, hello.HostId, l.Hash()); err != nil {
		return []*pb.ServerFrame{refuse("proof_invalid", true)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[hello.HostId]
	key := ed25519.PublicKey(hello.Proof.PublicKey)
	switch {
	case h == nil:
		return []*pb.ServerFrame{refuse("host_unknown", true)}
	case key.Equal(h.Key):
	case h.Next != nil && key.Equal(h.Next):
		h.Past = append(h.Past, h.Key)
		h.Key, h.Next, h.Generation = h.Next, nil, h.Generation+1
	case slices.ContainsFunc(h.Past, func(p ed25519.PublicKey) bool { return p.Equal(key) }):
		s.t.Errorf("the host came with a key that it had replaced")
		return []*pb.ServerFrame{refuse("identity_superseded", true)}
	default:
		return []*pb.ServerFrame{refuse("identity_unknown", true)}
	}
	l.host, h.Link = h.ID, l
	h.Hellos = append(h.Hellos, hello)
	held := map[string]*pb.SectionHeld{}
	for _, sec := range hello.Held {
		held[sec.Name] = sec
	}
	h.Held = held
	out := []*pb.ServerFrame{{Body: &pb.ServerFrame_Welcome{Welcome: &pb.Welcome{
		Heartbeat: durationpb.New(s.Heartbeat), Jitter: 0.1, ServerTime: timestamppb.Now(), ServerVersion: "test",
		Standing: h.Standing, WantInventory: h.Inventory == nil || !bytes.Equal(h.Inventory.Digest, hello.InventoryDigest),
		KeyGeneration: h.Generation,
	}}}}
	if h.Standing == "" || h.Standing == "managed" {
		for _, name := range slices.Sorted(maps.Keys(s.desired)) {
			v := s.desired[name]
			if sec := held[name]; sec == nil || !bytes.Equal(sec.Digest, v.Digest[:]) || sec.State == "failed" {
				out = append(out, Whole(v))
			}
		}
	}
	s.tell()
	return out
}

// heard takes in a frame of a host that is linked.
func (h *Host) heard(f *pb.AgentFrame) (answers []*pb.ServerFrame) {
	switch b := f.Body.(type) {
	case *pb.AgentFrame_Heartbeat:
		h.Beats++
		answers = append(answers, &pb.ServerFrame{Body: &pb.ServerFrame_Pulse{Pulse: &pb.Pulse{Sequence: b.Heartbeat.Sequence}}})
	case *pb.AgentFrame_SectionReport:
		h.Held[b.SectionReport.Section.Name] = b.SectionReport.Section
		h.Reports = append(h.Reports, b.SectionReport.Section)
	case *pb.AgentFrame_SectionRequest:
		h.Requests = append(h.Requests, b.SectionRequest)
	case *pb.AgentFrame_Inventory:
		h.Inventory = b.Inventory
	case *pb.AgentFrame_Health:
		h.Health = b.Health
	case *pb.AgentFrame_Trouble:
		h.Troubles = append(h.Troubles, b.Trouble)
	case *pb.AgentFrame_Goodbye:
		h.Goodbyes++
	case *pb.AgentFrame_KeyOffer:
		o := b.KeyOffer
		h.Offers++
		signed := binary.BigEndian.AppendUint64([]byte("loopback next key 1\x00"+h.ID+"\x00"), uint64(o.Generation))
		if o.Generation == h.Generation+1 && ed25519.Verify(o.PublicKey, signed, o.Signature) {
			h.Next = o.PublicKey
			answers = append(answers, &pb.ServerFrame{Body: &pb.ServerFrame_KeyAccepted{KeyAccepted: &pb.KeyAccepted{
				Generation: o.Generation, PublicKey: o.PublicKey}}})
		}
	}
	return answers
}

// Whole is a frame with a section.
func Whole(v section.Section) *pb.ServerFrame {
	w := &pb.SectionWhole{Name: v.Name, Revision: &pb.SectionRevision{Epoch: v.Revision.Epoch, Number: v.Revision.Number}, Digest: v.Digest[:]}
	for _, it := range v.Items {
		w.Items = append(w.Items, &pb.SectionItem{Key: it.Key, Value: it.Value})
	}
	return &pb.ServerFrame{Body: &pb.ServerFrame_Section{Section: w}}
}

// Delta is a frame that leads from one value of a section to another.
func Delta(from, to section.Section) *pb.ServerFrame {
	d := section.Diff(from, to)
	out := &pb.SectionDelta{
		Name: d.Name, Base: &pb.SectionRevision{Epoch: d.Base.Epoch, Number: d.Base.Number}, BaseDigest: d.BaseDigest[:],
		Revision: &pb.SectionRevision{Epoch: d.Revision.Epoch, Number: d.Revision.Number}, Digest: d.Digest[:], Delete: d.Delete,
	}
	for _, it := range d.Put {
		out.Put = append(out.Put, &pb.SectionItem{Key: it.Key, Value: it.Value})
	}
	return &pb.ServerFrame{Body: &pb.ServerFrame_SectionDelta{SectionDelta: out}}
}

// Desire sets what every host should have, without telling those that are linked.
func (s *Server) Desire(v section.Section) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired[v.Name] = v
}

// Push sets what every host should have and sends it whole to those that are linked.
func (s *Server) Push(v section.Section) {
	s.Desire(v)
	s.Send(Whole(v))
}

// Stand changes the standing of every host and tells those that are linked.
func (s *Server) Stand(standing, reason string) {
	s.mu.Lock()
	for _, h := range s.hosts {
		h.Standing = standing
	}
	s.mu.Unlock()
	s.Send(&pb.ServerFrame{Body: &pb.ServerFrame_Standing{Standing: &pb.Standing{Standing: standing, Reason: reason}}})
}

// Send sends a frame to every host that is linked.
func (s *Server) Send(f *pb.ServerFrame) {
	s.mu.Lock()
	var links []*Link
	for _, h := range s.hosts {
		if h.Link != nil {
			links = append(links, h.Link)
		}
	}
	s.mu.Unlock()
	for _, l := range links {
		l.mu.Lock()
		l.Answer(f)
		l.mu.Unlock()
	}
}
