package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/wire"
)

// errAnew ends a session whose agent comes back with another key.
var errAnew = fault.New(fault.Unavailable, "link_anew", "the agent makes its link anew, with another key")

// Clone is a machine with a copy of this one's disk: the same key and the same host, another boot.
func (a *Agent) Clone(bootID string) *Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Agent{Dialer: a.Dialer, Token: a.Token, Name: a.Name + "-copy", Version: a.Version, BootID: bootID, Key: a.Key,
		Old: a.Old, Patience: a.Patience, hostID: a.hostID}
}

func generate() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// takeKey handles what has to do with keys, as agents do.
func (s *Session) takeKey(ctx context.Context, f *pb.ServerFrame) (err error) {
	a := s.agent
	switch body := f.Body.(type) {
	case *pb.ServerFrame_Challenge:
		if a.Old {
			return nil
		}
		here := wire.Presence{HostID: s.hostID, BootID: s.bootID, Connection: s.connection, Nonce: body.Challenge.Nonce, Hash: s.Conn.Hash()}
		return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_ChallengeAnswer{ChallengeAnswer: &pb.ChallengeAnswer{
			Nonce: body.Challenge.Nonce, Signature: here.Sign(s.key), HostName: a.Name, MachineId: "machine",
		}}})
	case *pb.ServerFrame_Rekey:
		return s.Offer(ctx)
	case *pb.ServerFrame_KeyAccepted:
		a.mu.Lock()
		if a.next != nil && a.next.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(body.KeyAccepted.PublicKey)) {
			a.earlier = append(a.earlier, wire.SignSuccession(a.Key, s.hostID, a.next.Public().(ed25519.PublicKey), body.KeyAccepted.Generation))
			a.Key, a.next, err = a.next, nil, errAnew
		}
		a.mu.Unlock()
		return err
	case *pb.ServerFrame_Split:
		a.mu.Lock()
		if a.own == nil {
			a.own, err = generate()
		}
		own := a.own
		a.mu.Unlock()
		if err != nil {
			return err
		}
		return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_SplitKey{SplitKey: &pb.SplitKey{
			Proof: wire.SignProof(own, wire.RoleEnrol, "", s.Conn.Hash()), HostName: a.Name, AgentVersion: a.Version,
		}}})
	case *pb.ServerFrame_Enrolled:
		a.mu.Lock()
		a.hostID, a.Key, a.own, a.next, a.held = body.Enrolled.HostId, a.own, nil, nil, nil
		a.mu.Unlock()
		return errAnew
	}
	return nil
}

// Offer offers a new key. It comes into use once it is accepted.
func (s *Session) Offer(ctx context.Context) error {
	a := s.agent
	next, err := generate()
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.next = next
	generation := int64(a.kept) + 1
	a.mu.Unlock()
	return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_KeyOffer{KeyOffer: &pb.KeyOffer{
		PublicKey: next.Public().(ed25519.PublicKey), Generation: generation,
		Signature: ed25519.Sign(next, link.OfferMessage(s.hostID, generation)),
	}}})
}
