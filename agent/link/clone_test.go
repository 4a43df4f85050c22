package link_test

import (
	"crypto/ed25519"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/controltest"
	"github.com/loopbackd/loopback/wire"
)

// tell sends a frame over the host's link.
func (b *bench) tell(t *testing.T, f *pb.ServerFrame) {
	t.Helper()
	synctest.Wait() // the welcome comes first
	raw, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Host(b.id).Link.Send(raw); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestAChallengeIsAnsweredOnItsOwnLink(t *testing.T) {
	var got atomic.Pointer[pb.ChallengeAnswer]
	inBubble(t, func(b *bench) {
		b.Server.Hear = func(_ *controltest.Link, f *pb.AgentFrame) {
			if a := f.GetChallengeAnswer(); a != nil {
				got.Store(a)
			}
		}
	}, func(t *testing.T, b *bench) {
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		nonce := make([]byte, wire.NonceSize)
		nonce[5] = 7
		b.tell(t, &pb.ServerFrame{Body: &pb.ServerFrame_Challenge{Challenge: &pb.Challenge{Nonce: nonce}}})
		h := b.Host(b.id)
		hello := h.Hellos[len(h.Hellos)-1]
		answer := got.Load()
		if answer == nil || !hello.AnswersChallenges {
			t.Fatalf("got %v, hello %v; want an answer from an agent that says it gives one", answer, hello)
		}
		here := wire.Presence{HostID: b.id, BootID: hello.BootId, Connection: hello.Connection, Nonce: nonce, Hash: h.Link.Hash()}
		if !here.Verify(h.Key, answer.Signature) {
			t.Error("the answer does not hold")
		}
		here.Connection++
		if here.Verify(h.Key, answer.Signature) {
			t.Error("the answer holds for another link as well")
		}
		got.Store(nil)
		b.tell(t, &pb.ServerFrame{Body: &pb.ServerFrame_Challenge{Challenge: &pb.Challenge{Nonce: []byte("short")}}})
		if got.Load() != nil {
			t.Error("a nonce of another kind was signed")
		}
	})
}

// The key that is made then is none that a copy could hold, not even the next one that was stored already.
func TestAKeptHostReplacesItsKeyAtOnce(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.config.KeyRotation = 24 * time.Hour
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		first := b.identity(t)
		b.tell(t, &pb.ServerFrame{Body: &pb.ServerFrame_Rekey{Rekey: &pb.Rekey{}}})
		b.Wait(t, "link with the new key", b.id, func(h *controltest.Host) bool { return h.Link != nil && h.Generation == 2 })
		synctest.Wait()
		i := b.identity(t)
		if i.Generation != 2 || i.Key.Equal(first.Key) || i.Next != nil || i.HostID != first.HostID {
			t.Errorf("got %+v; want the same host with its second key", i)
		}
	})
}

// A machine that is told to be a host of its own makes the key for it once, whatever is lost or interrupted.
func TestASplitMachineBecomesAHostOfItsOwn(t *testing.T) {
	var asked atomic.Int64
	var shown atomic.Pointer[pb.SplitKey]
	inBubble(t, func(b *bench) {
		b.Server.Hear = func(_ *controltest.Link, f *pb.AgentFrame) {
			if k := f.GetSplitKey(); k != nil {
				asked.Add(1)
				shown.Store(k)
			}
		}
	}, func(t *testing.T, b *bench) {
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		split := &pb.ServerFrame{Body: &pb.ServerFrame_Split{Split: &pb.Split{Reason: "split"}}}
		b.tell(t, split)
		first := shown.Load()
		if err := wire.VerifyProof(first.GetProof(), wire.RoleEnrol, "", b.Host(b.id).Link.Hash()); err != nil {
			t.Fatalf("the new key's proof: %v", err)
		}
		b.stop() // the answer is lost with the agent
		b.run(t)
		b.Wait(t, "link again", b.id, linked)
		b.tell(t, split)
		if again := shown.Load(); asked.Load() != 2 || string(again.Proof.PublicKey) != string(first.Proof.PublicKey) {
			t.Fatalf("asked %d times; want the same key shown again", asked.Load())
		}
		old := b.identity(t)
		b.tell(t, &pb.ServerFrame{Body: &pb.ServerFrame_Enrolled{Enrolled: &pb.Enrolled{HostId: "hst_own", HostName: "own", WorkspaceId: "ws_test"}}})
		i := b.identity(t)
		if i.HostID != "hst_own" || !i.Key.Equal(old.Apart) || i.Generation != 1 || i.Apart != nil || i.Next != nil {
			t.Errorf("got %+v; want a host of its own", i)
		}
	})
}

func TestAnUnknownKeyShowsWhereItComesFrom(t *testing.T) {
	var restored atomic.Bool
	var shown atomic.Pointer[pb.Hello]
	inBubble(t, func(b *bench) {
		b.Server.Refuse = func(f *pb.AgentFrame) *pb.Refusal {
			h := f.GetHello()
			if h == nil || !restored.Load() {
				return nil
			}
			if len(h.Successions) == 0 {
				return controltest.Refusal("identity_unknown", false, 0)
			}
			shown.Store(h)
			return nil
		}
	}, func(t *testing.T, b *bench) {
		first := b.identity(t).Key.Public().(ed25519.PublicKey)
		b.config.KeyRotation = time.Hour
		b.run(t)
		time.Sleep(150 * time.Minute) // two rotations
		synctest.Wait()
		generation := b.identity(t).Generation
		if generation < 3 {
			t.Fatalf("got generation %d; want at least two rotations", generation)
		}
		for _, h := range b.Host(b.id).Hellos {
			if len(h.Successions) > 0 {
				t.Fatal("earlier keys were shown though nobody had to know")
			}
		}
		restored.Store(true)
		b.Cut()
		b.Wait(t, "link", b.id, func(h *controltest.Host) bool { return h.Link != nil && shown.Load() != nil })
		hello := shown.Load()
		after, last, ok := wire.FollowSuccessions(b.id, first, hello.Proof.PublicKey, hello.Successions)
		if !ok || last != generation || len(after) != int(generation)-1 {
			t.Errorf("got %d steps to generation %d, %v; want the way from the first key to the %dth", len(after), last, ok, generation)
		}
	})
}
