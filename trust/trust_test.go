package trust

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"
)

func signed(t *testing.T, version uint64) (Signed, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Keyset{Deployment: "dep_x", Version: version, IssuedAt: time.Now(), LinkKeys: [][]byte{make([]byte, 32)}}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

func TestAKeysetIsBelievedFromItsAnchorAlone(t *testing.T) {
	s, key := signed(t, 3)
	anchor := HashAnchor(key.Public().(ed25519.PublicKey))
	k, err := s.Verify(anchor, 3)
	if err != nil || !k.Vouches(make([]byte, 32)) || k.Vouches([]byte("another")) {
		t.Fatalf("got %v, %v", k, err)
	}
	if _, err := s.Verify(anchor, 4); !errors.Is(err, ErrStale) {
		t.Errorf("an older version: got %v", err)
	}
	_, other := signed(t, 3)
	if _, err := s.Verify(HashAnchor(other.Public().(ed25519.PublicKey)), 0); !errors.Is(err, ErrAnchor) {
		t.Errorf("another anchor: got %v", err)
	}
}

// Every byte of payload and signature counts.
func TestAnAlteredKeysetIsRefused(t *testing.T) {
	s, key := signed(t, 1)
	anchor := HashAnchor(key.Public().(ed25519.PublicKey))
	for range 2 { // what is remembered of a genuine one must not open the door to others
		if _, err := s.Verify(anchor, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range s.Payload {
		altered := Signed{append([]byte{}, s.Payload...), s.Signature}
		altered.Payload[i] ^= 1
		if _, err := altered.Verify(anchor, 0); err == nil {
			t.Fatalf("payload byte %d may be altered", i)
		}
	}
	for i := range s.Signature {
		altered := Signed{s.Payload, append([]byte{}, s.Signature...)}
		altered.Signature[i] ^= 1
		if _, err := altered.Verify(anchor, 0); err == nil {
			t.Fatalf("signature byte %d may be altered", i)
		}
	}
	if _, err := (Signed{}).Verify(anchor, 0); err == nil {
		t.Error("nothing at all was believed")
	}
	if _, err := (Signed{Payload: make([]byte, 65<<10)}).Verify(anchor, 0); err == nil {
		t.Error("an oversized keyset was believed")
	}
}

// A signature that the anchor made for something else is none for a keyset.
func TestASignatureOutOfItsContextIsNone(t *testing.T) {
	s, key := signed(t, 1)
	s.Signature = ed25519.Sign(key, s.Payload)
	if _, err := s.Verify(HashAnchor(key.Public().(ed25519.PublicKey)), 0); !errors.Is(err, ErrKeyset) {
		t.Errorf("got %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(nil)
	anchor := HashAnchor(key.Public().(ed25519.PublicKey))
	s, _ := Keyset{Version: 1}.Sign(key)
	f.Add(s.Payload, s.Signature)
	f.Add([]byte(`{"anchor":"AA=="}`), []byte{})
	f.Fuzz(func(t *testing.T, payload, signature []byte) {
		k, err := Signed{payload, signature}.Verify(anchor, 0)
		if err == nil && !ed25519.Verify(k.Anchor, append([]byte(signingContext), payload...), signature) {
			t.Error("believed without a signature")
		}
	})
}
