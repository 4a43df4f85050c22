package link_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/test/controltest"
	"github.com/loopbackd/loopback/token"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// once loses the first frame that matches.
func once(match func(*pb.ServerFrame) bool) func(*pb.ServerFrame) bool {
	lost := false
	return func(f *pb.ServerFrame) bool {
		if lost || !match(f) {
			return false
		}
		lost = true
		return true
	}
}

func (b *bench) identity(t *testing.T) state.Identity {
	t.Helper()
	i, err := b.store.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestALostAnswerToAnEnrolmentCostsNoSecondUse(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.Server.Lose = once(func(f *pb.ServerFrame) bool { return f.GetEnrolled() != nil })
	}, func(t *testing.T, b *bench) {
		if b.Uses() != 1 {
			t.Errorf("got %d uses; want 1", b.Uses())
		}
		if i := b.identity(t); !i.Enrolled() || i.Generation != 1 || i.WorkspaceID != "ws_test" {
			t.Errorf("got %+v; want it enrolled", i)
		}
		b.enrol(t) // again: nothing happens
		if b.Uses() != 1 {
			t.Errorf("after enrolling again: got %d uses; want 1", b.Uses())
		}
	})
}

// The program may die at any moment of an enrolment: what is on disk then is a key without a host id.
func TestAnInterruptedEnrolmentIsFinishedWithTheSameKey(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		i := b.identity(t)
		if err := b.store.PutIdentity(state.Identity{Generation: 1, Key: i.Key}); err != nil {
			t.Fatal(err)
		}
		b.enrol(t)
		if again := b.identity(t); b.Uses() != 1 || again.HostID != i.HostID || !again.Key.Equal(i.Key) {
			t.Errorf("got %+v after %d uses; want the same host", again, b.Uses())
		}
	})
}

func TestEnrolGivesUpWhereWaitingDoesNotHelp(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		refused := func(code string, final bool, want *fault.Error) {
			t.Helper()
			other, err := state.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			b.Server.Refuse = func(*pb.AgentFrame) *pb.Refusal { return controltest.Refusal(code, final, 0) }
			o := b.enrolment()
			o.Store = other
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			began := time.Now()
			_, err = link.Enrol(ctx, o)
			if !errors.Is(err, want) || fault.KindOf(err) != want.Kind || fault.Of(err).Hint == "" {
				t.Errorf("%s: got %v (%s); want %s with a hint", code, err, fault.KindOf(err), want.Code)
			}
			if took := time.Since(began); final != (took < time.Minute) {
				t.Errorf("%s: gave up after %s", code, took)
			}
			if i, err := other.Identity(); err != nil || i.Enrolled() {
				t.Errorf("%s: got identity %+v, %v; want a key alone, for the next try", code, i, err)
			}
		}
		refused("token_expired", true, token.ErrExpired)
		refused("token_network", true, token.ErrNetwork)
		refused("too_busy", false, fault.New(fault.Unavailable, "too_busy", ""))
		b.Server.Refuse = func(*pb.AgentFrame) *pb.Refusal { return nil }

		o := b.enrolment()
		o.Config.Anchor[0]++
		if err := b.store.PutIdentity(state.Identity{Generation: 1, Key: b.identity(t).Key}); err != nil {
			t.Fatal(err)
		}
		if _, err := link.Enrol(t.Context(), o); !errors.Is(err, link.ErrAnchorConflict) {
			t.Errorf("got %v; want ErrAnchorConflict", err)
		}
	})
}

// What answers is not the deployment of the token: the secret must not be sent.
func TestTheTokenIsNotShownToAStranger(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.Server.Hear = func(_ *controltest.Link, f *pb.AgentFrame) { t.Errorf("the stranger was told %v", f) }
		store, err := state.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		o := b.enrolment()
		o.Store, o.Config.Anchor = store, [16]byte{}
		o.Token = token.NewSecret("tok_01jd0000000000000000000000", [16]byte{1, 2, 3})
		if _, err := link.Enrol(t.Context(), o); fault.Of(err).Code != "anchor_mismatch" {
			t.Errorf("got %v; want anchor_mismatch", err)
		}
		b.Server.Hear = nil
	})
}

// Whatever answer of a rotation is lost, the host ends with its next key in use, generation 2, and was never seen with a
// key that it had replaced (the control plane of the test fails on that).
func TestRotationSurvivesEveryLostAnswer(t *testing.T) {
	welcomes := 0
	for name, lose := range map[string]func(*pb.ServerFrame) bool{
		"none":         nil,
		"key accepted": once(func(f *pb.ServerFrame) bool { return f.GetKeyAccepted() != nil }),
		"welcome of the next key": once(func(f *pb.ServerFrame) bool {
			return f.GetWelcome() != nil && f.GetWelcome().KeyGeneration == 2
		}),
		"every third welcome": func(f *pb.ServerFrame) bool {
			if f.GetWelcome() == nil {
				return false
			}
			welcomes++
			return welcomes%3 != 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) { b.Server.Lose = lose }, func(t *testing.T, b *bench) {
				first := b.identity(t).Key
				b.config.KeyRotation = 24 * time.Hour
				b.run(t)
				b.Wait(t, "link", b.id, linked)
				time.Sleep(21 * time.Hour)
				synctest.Wait()
				if h := b.Host(b.id); h.Offers != 0 {
					t.Errorf("got %d offers after 21 of 24 hours; want none", h.Offers)
				}
				time.Sleep(4 * time.Hour)
				synctest.Wait()
				h, i := b.Host(b.id), b.identity(t)
				if h.Generation != 2 || i.Generation != 2 || i.Next != nil || i.Key.Equal(first) || !h.Key.Equal(i.Key.Public()) {
					t.Errorf("got generation %d there and %+v here; want 2, one key", h.Generation, i)
				}
				if h.Link == nil || b.client.Status().Key != 2 {
					t.Errorf("not linked with the new key: %+v", b.client.Status())
				}
				time.Sleep(16 * time.Hour)
				synctest.Wait()
				if h := b.Host(b.id); h.Generation != 2 {
					t.Errorf("got generation %d before the next is due", h.Generation)
				}
			})
		})
	}
}

// The agent may die between any two steps of a rotation. What is on disk then is one of two things.
func TestRotationSurvivesDeathAtEachStep(t *testing.T) {
	_, next, _ := ed25519.GenerateKey(nil)
	for name, prepare := range map[string]func(*bench, *testing.T){
		"stored, not offered": func(*bench, *testing.T) {},
		"accepted, not used": func(b *bench, t *testing.T) {
			b.Adopt(b.id, next.Public().(ed25519.PublicKey), false)
		},
		"used, not promoted": func(b *bench, t *testing.T) {
			b.Adopt(b.id, next.Public().(ed25519.PublicKey), true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, b *bench) {
				i := b.identity(t)
				i.Next = next
				if err := b.store.PutIdentity(i); err != nil {
					t.Fatal(err)
				}
				prepare(b, t)
				b.run(t)
				b.Wait(t, "link with the next key", b.id, func(h *controltest.Host) bool { return h.Link != nil && h.Generation == 2 })
				synctest.Wait()
				if i := b.identity(t); i.Generation != 2 || !i.Key.Equal(next) || i.Next != nil {
					t.Errorf("got %+v; want the next key promoted", i)
				}
			})
		})
	}
}

// A connection that breaks during the hello with the next key says nothing about that key: it may be in use over there.
func TestABrokenConnectionDoesNotBringTheOldKeyBack(t *testing.T) {
	lost := 0
	inBubble(t, func(b *bench) {
		b.Server.Lose = func(f *pb.ServerFrame) bool {
			if w := f.GetWelcome(); w != nil && w.KeyGeneration == 2 && lost < 10 {
				lost++
				return true
			}
			return false
		}
	}, func(t *testing.T, b *bench) {
		b.config.KeyRotation = time.Hour
		b.run(t)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if h := b.Host(b.id); lost != 10 || h.Generation < 2 || h.Link == nil {
			t.Errorf("after %d lost answers: got generation %d, link %v", lost, h.Generation, h.Link)
		}
	})
}

func TestAQuarantinedHostDoesNotRotate(t *testing.T) {
	inBubble(t, func(b *bench) { b.Server.Standing = "quarantined" }, func(t *testing.T, b *bench) {
		b.config.KeyRotation = time.Hour
		b.run(t)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		if h := b.Host(b.id); h.Offers != 0 || h.Link == nil {
			t.Errorf("got %d offers, link %v; want none, linked", h.Offers, h.Link)
		}
		b.Stand("managed", "")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if h := b.Host(b.id); h.Generation < 2 {
			t.Errorf("got generation %d after the release; want a rotation", h.Generation)
		}
	})
}

func TestANewAnchorIsFollowed(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		_, anchor, _ := ed25519.GenerateKey(nil)
		b.run(t)
		for _, version := range []uint64{2, 3} { // 2 names the new anchor, 3 is signed by it
			b.Rekey(version, anchor)
			synctest.Wait() // a link is cut, not half of one, after which the client would poll
			b.Cut()
			b.Wait(t, "link", b.id, func(h *controltest.Host) bool {
				return h.Link != nil && h.Hellos[len(h.Hellos)-1].KeysetVersion == version
			})
		}
		b.stop()
		b.run(t) // from what is on disk
		b.Wait(t, "link after a restart", b.id, linked)
	})
}
