package fault

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/test/fleet"
)

// rotator is an agent that rotates its key, as the real one does: it keeps the next key before it offers it, says hello
// with the next where it holds one that it knows to be accepted, and falls back to the current one.
type rotator struct {
	*fleet.Agent
	random     *mathrand.Rand
	next       ed25519.PrivateKey
	accepted   bool
	generation int64
	lost       int
}

// once links and offers a key; half of the answers are lost.
func (r *rotator) once(ctx context.Context) error {
	current := r.Key
	withNext := r.next != nil && (r.accepted || r.random.IntN(2) == 0)
	if withNext {
		r.Key = r.next
	}
	s, err := r.Link(ctx)
	if err != nil {
		if r.Key = current; withNext && fault.Of(err).Code == "identity_unknown" {
			return nil // the offer never arrived: the current key serves on
		}
		return err
	}
	defer s.Conn.Close()
	if withNext && r.random.IntN(4) == 0 {
		r.Key = current // its welcome is lost: the agent does not know that next is in use now
		r.accepted, r.lost = true, r.lost+1
		return nil
	}
	r.generation = s.Welcome.GetKeyGeneration()
	if withNext {
		r.next, r.accepted = nil, false
	}
	if r.next == nil {
		if _, r.next, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	offer := &pb.KeyOffer{PublicKey: r.next.Public().(ed25519.PublicKey), Generation: r.generation + 1,
		Signature: ed25519.Sign(r.next, link.OfferMessage(r.HostID(), r.generation+1))}
	b, err := proto.Marshal(&pb.AgentFrame{Body: &pb.AgentFrame_KeyOffer{KeyOffer: offer}})
	if err != nil {
		return err
	}
	if err := s.Conn.Send(ctx, b); err != nil {
		return err
	}
	if r.random.IntN(2) == 0 {
		r.lost++ // gone before the answer comes: the offer may or may not have been taken
		return nil
	}
	for {
		b, err := s.Conn.Receive(ctx)
		if err != nil {
			return err
		}
		var f pb.ServerFrame
		if err := proto.Unmarshal(b, &f); err != nil {
			return err
		}
		if refused := f.GetRefusal(); refused != nil {
			return fmt.Errorf("refused: %s %s", refused.GetDetail().GetCode(), refused.GetMessage())
		}
		if f.GetKeyAccepted() != nil {
			r.accepted = true
			return nil
		}
	}
}

// Keys rotate over and over while every second answer is lost; nobody locks itself out, and no old key opens anything.
func TestRotationStormLocksNobodyOut(t *testing.T) {
	random := dice(t)
	n, turns := size(20, 200), size(12, 40)
	d := start(t)
	_, secret := mint(t, d, n)
	f := agents(t, d, n, secret, nil)
	await(t, f, 2*time.Minute, func(c fleet.Counts) bool { return c.Enrolled == n && c.Linked == n })
	f.Stop()
	rotators := make([]*rotator, n)
	first := make([]ed25519.PrivateKey, n)
	for i, a := range f.Agents {
		rotators[i] = &rotator{Agent: a, random: mathrand.New(mathrand.NewPCG(random.Uint64(), 0))}
		first[i] = a.Key
	}
	ctx := within(t, 10*time.Minute)
	each(n, 16, func(i int) {
		for turn := range turns {
			if err := rotators[i].once(ctx); err != nil {
				t.Errorf("host %d, turn %d, generation %d: %v", i, turn, rotators[i].generation, err)
				return
			}
		}
	})
	lost, generations := 0, int64(0)
	for i, r := range rotators {
		lost += r.lost
		h, err := d.Hosts.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Host: r.HostID()}))
		if err != nil {
			t.Fatal(err)
		}
		if state := h.Msg.GetState(); state == "pending" || state == "quarantined" || state == "removed" {
			t.Errorf("host %d: got %s (%s) after rotating", i, state, h.Msg.GetReason())
		}
		generations += h.Msg.GetKeyGeneration()
		entries, err := d.Entries(ctx, "hosts.rotate_key", r.HostID())
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(entries)) < h.Msg.GetKeyGeneration()-1 {
			t.Errorf("host %d: got %d audit entries for generation %d", i, len(entries), h.Msg.GetKeyGeneration())
		}
	}
	if generations < int64(n)*2 {
		t.Errorf("got %d generations over %d hosts: hardly any key was rotated", generations, n)
	}
	t.Logf("%d hosts, %d turns: %d answers lost, %d generations", n, turns, lost, generations)
	// The key that a host began with, while the newer one is silent: one approval, no entry by itself.
	old := rotators[0]
	old.Key = first[0]
	if s, err := old.Link(ctx); err == nil {
		if s.Welcome.GetStanding() != "pending" {
			t.Errorf("a past key: got %s, want pending", s.Welcome.GetStanding())
		}
		_ = s.Conn.Close()
	} else if code := fault.Of(err).Code; code != "identity_superseded" {
		t.Errorf("a past key: got %v", err)
	}
}
