package link_test

import (
	"crypto/ed25519"
	"testing"
	"testing/synctest"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/wire"
)

// A control plane that was restored from an old backup knows a key that the host has replaced twice since.
func TestAKeyThatFollowsFromTheKnownOneIsTakenUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(b *bundle, m *machine)
		forge  bool
		taken  bool
	}{
		{"as it should be", func(*bundle, *machine) {}, false, true},
		{"signed by another key", func(*bundle, *machine) {}, true, false},
		{"while an operator has to decide on copies", func(b *bundle, m *machine) {
			_, _ = b.fleet.Cloned(t.Context(), m.id, []host.Copy{{BootID: "one"}, {BootID: "two"}})
		}, false, false},
		{"while it awaits approval", func(b *bundle, m *machine) { _ = b.fleet.SetLifecycle(host.LifecyclePending, "", m.id) }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m := b.enrolled()
				c.before(b, m)
				keys := []ed25519.PrivateKey{m.key, newMachine().key, newMachine().key}
				signer := keys[0]
				if c.forge {
					signer = newMachine().key
				}
				one := wire.SignSuccession(signer, m.id, keys[1].Public().(ed25519.PublicKey), 2)
				one.PublicKey = keys[0].Public().(ed25519.PublicKey)
				two := wire.SignSuccession(keys[1], m.id, keys[2].Public().(ed25519.PublicKey), 3)
				m.key = keys[2]
				l := b.open()
				l.say(m.hello(l))
				if r := refusalIn(l.heard()); r == nil || r.Detail.Code != "identity_unknown" {
					t.Fatalf("without a word on where the key comes from: got %v, wanted identity_unknown", r)
				}
				l = b.open()
				f := m.hello(l)
				f.GetHello().Successions = []*pb.Succession{one, two}
				l.say(f)
				frames := l.heard()
				k := b.fleet.Lookup(m.id)
				if taken := len(frames) > 0 && frames[0].GetWelcome() != nil; taken != c.taken {
					t.Fatalf("got %v, wanted it taken: %v", frames, c.taken)
				}
				if c.taken && (!k.Key.Equal(keys[2].Public()) || k.Generation != 3) {
					t.Errorf("got generation %d, wanted the third key", k.Generation)
				}
				if !c.taken && k.Generation != 1 {
					t.Errorf("got generation %d: the key was taken up", k.Generation)
				}
			})
		})
	}
}
