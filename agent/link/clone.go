package link

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/wire"
)

// prove answers a challenge: this agent is there, on this link.
func (s *session) prove(ctx context.Context, c *pb.Challenge) error {
	if len(c.Nonce) != wire.NonceSize {
		return nil // of a control plane that knows another kind
	}
	i := s.options.Host.Inventory().Inventory
	here := wire.Presence{HostID: s.identity.HostID, BootID: s.options.BootID, Connection: s.links, Nonce: c.Nonce, Hash: s.conn.Hash()}
	s.log.Info("the control plane has two links for this host and asks whether this one is alive")
	return s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_ChallengeAnswer{ChallengeAnswer: &pb.ChallengeAnswer{
		Nonce: c.Nonce, Signature: here.Sign(s.key), HostName: validText(i.HostName), MachineId: validText(i.MachineID),
	}}})
}

// renew replaces the key at once, by one that was made just now: another that waits may have been copied with this host.
func (s *session) renew(ctx context.Context) error {
	_, next, err := ed25519.GenerateKey(nil)
	if err != nil {
		return fmt.Errorf("make the next key: %w", err)
	}
	identity := s.identity
	identity.Next = next
	if err := s.options.Store.PutIdentity(identity); err != nil {
		s.forgetful(err) // the control plane says so again on the next link
		return nil
	}
	s.identity, s.rekey = identity, nil
	s.log.Warn("another machine held a copy of this host's key: replacing it")
	return s.offerNext(ctx)
}

// apart asks to be the host of its own that this machine is told to become. The key for it is stored before it is shown:
// an answer that is lost is given again.
func (s *session) apart(ctx context.Context, why *pb.Split) error {
	if s.identity.Apart == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		identity := s.identity
		identity.Apart = key
		if err := s.options.Store.PutIdentity(identity); err != nil {
			s.forgetful(err)
			return nil
		}
		s.identity = identity
	}
	s.log.Warn("this machine becomes a host of its own", "was", s.identity.HostID, "reason", why.Reason)
	i := s.options.Host.Inventory()
	return s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_SplitKey{SplitKey: &pb.SplitKey{
		Proof:    wire.SignProof(s.identity.Apart, wire.RoleEnrol, "", s.conn.Hash()),
		HostName: validText(i.Inventory.HostName), AgentVersion: s.options.Version,
		Inventory: inventoryOut(i.Inventory), Ceiling: ceilingOut(i.Ceiling),
	}}})
}

// parted is the answer: this machine is another host from here on.
func (s *session) parted(e *pb.Enrolled) error {
	if s.identity.Apart == nil || e.HostId == "" {
		return nil // nobody asked
	}
	now := time.Now()
	identity := state.Identity{
		HostID: e.HostId, HostName: e.HostName, WorkspaceID: e.WorkspaceId, Channel: e.Channel,
		EnrolledAt: now, Generation: 1, Key: s.identity.Apart, KeySince: now,
	}
	// The sections go first: a power cut in between leaves a host that asks for them, not one that holds another's.
	err := s.options.Parted(identity)
	if err == nil {
		err = s.options.Store.PutIdentity(identity)
	}
	if err != nil {
		s.forgetful(err)
		return nil
	}
	s.log.Warn("this machine is a host of its own now", "was", s.identity.HostID, "host", identity.HostID, "name", identity.HostName)
	s.identity, s.next = identity, false
	s.update(func(st *Status) { st.Key = identity.Generation })
	return errAnew
}
