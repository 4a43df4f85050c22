package wire

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/flynn/noise"

	"github.com/loopbackd/loopback/trust"
)

// What the library's own X25519 says is the oracle, for keys of the handshake and for strange ones.
func TestAnAgreementGivesWhatTheLibraryGives(t *testing.T) {
	mine, err := noise.DH25519.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := prepare(ServerKeys{Private: mine.Private, Public: mine.Public})
	if err != nil {
		t.Fatal(err)
	}
	g := &agreement{static: a.static}
	ephemeral, err := g.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		peer, err := noise.DH25519.GenerateKeypair(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for name, private := range map[string][]byte{"static": mine.Private, "ephemeral": ephemeral.Private, "another": peer.Private} {
			got, err := g.DH(private, peer.Public)
			if err != nil {
				t.Fatal(err)
			}
			want, err := noise.DH25519.DH(private, peer.Public)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the %s key agrees on %x, the library on %x", name, got, want)
			}
		}
	}
	if p, err := noise.DH25519.DH(ephemeral.Private, append([]byte{9}, make([]byte, 31)...)); err != nil || !bytes.Equal(p, ephemeral.Public) {
		t.Errorf("the ephemeral public key is %x, %v; want %x", ephemeral.Public, err, p)
	}
}

func TestAPublicKeyOfLowOrderIsRefused(t *testing.T) {
	g := &agreement{}
	e, err := g.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, low := range [][]byte{make([]byte, 32), append([]byte{1}, make([]byte, 31)...)} {
		if got, err := g.DH(e.Private, low); err == nil {
			t.Errorf("agreed on %x with a key of low order", got)
		}
	}
}

// Rotated keys are taken up by the next handshake.
func TestAServerAnswersWithTheKeysThatItHasNow(t *testing.T) {
	one, two := newDeployment(t, 1), newDeployment(t, 1)
	keys := one.keys
	s := &Server{Keys: func() ServerKeys { return keys }}
	s.init()
	for _, d := range []*deployment{one, two, one} {
		keys = d.keys
		for range 2 {
			i, first, err := initiate()
			if err != nil {
				t.Fatal(err)
			}
			second, _, err := s.respond(first)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := i.finish(second, []trust.AnchorHash{d.hash()}, 0, rekeyInterval); err != nil {
				t.Errorf("the handshake with the present keys: %v", err)
			}
		}
	}
}
