package state

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/trust"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "loopback"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func identity() Identity {
	return Identity{HostID: "hst_1", HostName: "web-1", WorkspaceID: "ws_1", Channel: "stable", Generation: 3,
		EnrolledAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Key: key(1), KeySince: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Next: key(2)}
}

func TestTheFolderIsClosedToOthers(t *testing.T) {
	s := open(t)
	if err := s.PutIdentity(identity()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, identityFile: 0o600, sectionsDir: 0o700, asideDir: 0o700, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(s.dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: got %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
}

func TestOneAgentAtATime(t *testing.T) {
	s := open(t)
	if _, err := Open(s.dir); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v; want ErrLocked", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	again.Close()
}

func TestInterruptedWritesAreCleanedUp(t *testing.T) {
	s := open(t)
	left := filepath.Join(s.dir, sectionsDir, durable.Temporary+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v; want the file gone", err)
	}
}

func TestIdentityIsKept(t *testing.T) {
	s := open(t)
	if _, err := s.Identity(); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("at first: got %v; want ErrNoIdentity", err)
	}
	for _, want := range []Identity{identity(), {Generation: 1, Key: key(9)}} {
		if err := s.PutIdentity(want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadIdentity(s.dir)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	}
	if err := s.PutIdentity(Identity{}); err == nil {
		t.Error("an identity without a key was stored")
	}
}

func TestEveryDamageToTheIdentityIsFound(t *testing.T) {
	s := open(t)
	if err := s.PutIdentity(identity()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.dir, identityFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(name string, contents []byte) {
		if err := os.WriteFile(path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Identity(); !errors.Is(err, ErrIdentityDamaged) {
			t.Errorf("%s: got %v; want ErrIdentityDamaged", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, contents) {
			t.Errorf("%s: the damaged file was touched", name)
		}
	}
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		damage(fmt.Sprintf("bit flipped at %d", i), flipped)
		damage(fmt.Sprintf("cut at %d", i), whole[:i])
	}
	damage("sealed nonsense", seal("identity", []byte(`{"key":"AAAA","generation":1}`)))
	damage("another kind", seal("trust", []byte(`{}`)))
}

func held(t *testing.T, name string, number uint64, items ...section.Item) Held {
	t.Helper()
	v, err := section.New(name, section.Revision{Epoch: 2, Number: number}, items)
	if err != nil {
		t.Fatal(err)
	}
	return Held{v, time.Unix(1700000000, 123)}
}

func TestSectionsAreKept(t *testing.T) {
	s := open(t)
	a := held(t, "mesh", 7, section.Item{Key: "k", Value: []byte{0, 1, 2}}, section.Item{Key: "long", Value: bytes.Repeat([]byte("x"), section.MaxValue)})
	b := held(t, "settings", 9)
	for _, h := range []Held{held(t, "mesh", 6), a, b} {
		if err := s.PutSection(h); err != nil {
			t.Fatal(err)
		}
	}
	got, aside, err := s.Sections()
	if err != nil || len(aside) != 0 || len(got) != 2 || got[0].Section.Digest != a.Section.Digest || got[1].Section.Revision != b.Section.Revision || !got[0].AppliedAt.Equal(a.AppliedAt) {
		t.Errorf("got %v, %v, %v; want the newer mesh and settings", got, aside, err)
	}
	if err := s.PutSection(held(t, "../identity", 1)); err == nil {
		t.Error("a section's name left the folder")
	}
}

func TestADamagedSectionIsSetAsideAndTheOthersUsed(t *testing.T) {
	s := open(t)
	for _, h := range []Held{held(t, "mesh", 7), held(t, "settings", 9)} {
		if err := s.PutSection(h); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(s.dir, sectionsDir, "mesh")
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	contents[len(contents)-1] ^= 0x40
	if err := os.WriteFile(path, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing left to set aside
		got, aside, err := s.Sections()
		if err != nil || len(got) != 1 || got[0].Section.Name != "settings" {
			t.Errorf("got %v, %v; want settings alone", got, err)
		}
		if len(aside) == 1 && aside[0].Name == "mesh" && strings.Contains(aside[0].Err.Error(), "checksum") {
			contents = nil
		}
	}
	if contents != nil {
		t.Error("the damaged section was not named")
	}
	if _, err := os.Stat(filepath.Join(s.dir, asideDir, "mesh")); err != nil {
		t.Errorf("the damaged file is not there to be looked at: %v", err)
	}
}

func TestAFileUnderAnotherNameIsNotBelieved(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.dir, sectionsDir, "firewall"), formatSection(held(t, "mesh", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, aside, err := s.Sections()
	if err != nil || len(got) != 0 || len(aside) != 1 {
		t.Errorf("got %v, %v, %v; want it set aside", got, aside, err)
	}
}

func TestConnectionsAreNumberedSinceBoot(t *testing.T) {
	s := open(t)
	var got []uint64
	for _, boot := range []string{"a", "a", "b", "b", "b", "a"} {
		n, err := s.NextConnection(boot)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n)
	}
	if want := []uint64{1, 2, 1, 2, 3, 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func sign(t *testing.T, by ed25519.PrivateKey, version uint64, next ed25519.PrivateKey) trust.Signed {
	t.Helper()
	k := trust.Keyset{Deployment: "dep_1", Version: version, LinkKeys: [][]byte{bytes.Repeat([]byte{7}, 32)}}
	if next != nil {
		k.NextAnchor = next.Public().(ed25519.PublicKey)
	}
	s, err := k.Sign(by)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hashOf(k ed25519.PrivateKey) trust.AnchorHash {
	return trust.HashAnchor(k.Public().(ed25519.PublicKey))
}

func TestTrustGoesForwardOnly(t *testing.T) {
	s := open(t)
	a, b, c := key(1), key(2), key(3)
	accept := func(t *testing.T, now Trust, k trust.Signed, want error) Trust {
		t.Helper()
		next, _, err := now.Accept(k)
		if !errors.Is(err, want) {
			t.Fatalf("got %v; want %v", err, want)
		}
		if err := s.PutTrust(next); err != nil {
			t.Fatal(err)
		}
		read, aside, err := s.Trust(hashOf(a))
		if err != nil || aside != nil || !reflect.DeepEqual(read, next) {
			t.Fatalf("got %+v, %v, %v; want %+v", read, aside, err, next)
		}
		return read
	}
	now, _, err := s.Trust(hashOf(a))
	if err != nil || !reflect.DeepEqual(now, NewTrust(hashOf(a))) {
		t.Fatalf("got %+v, %v; want the root alone", now, err)
	}
	now = accept(t, now, sign(t, b, 9, nil), trust.ErrAnchor)
	now = accept(t, now, sign(t, a, 5, nil), nil)
	now = accept(t, now, sign(t, a, 4, nil), trust.ErrStale)
	now = accept(t, now, sign(t, a, 5, nil), nil)
	now = accept(t, now, sign(t, b, 6, nil), trust.ErrAnchor)
	now = accept(t, now, sign(t, a, 6, b), nil)
	now = accept(t, now, sign(t, c, 7, nil), trust.ErrAnchor)
	now = accept(t, now, sign(t, b, 7, nil), nil)
	now = accept(t, now, sign(t, a, 8, nil), trust.ErrAnchor) // the old anchor is retired
	if got, _, err := s.Trust(hashOf(c)); err != nil || !reflect.DeepEqual(got, NewTrust(hashOf(c))) {
		t.Errorf("another root: got %+v, %v; want it to start anew", got, err)
	}
	_ = now
}

func TestADamagedKeysetIsSetAside(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.dir, trustFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, aside, err := s.Trust(hashOf(key(1)))
	if err != nil || aside == nil || !reflect.DeepEqual(got, NewTrust(hashOf(key(1)))) {
		t.Errorf("got %+v, %v, %v; want a fresh start, said", got, aside, err)
	}
}

// Whatever the file, parseSection returns; what it accepts is written again as the same bytes would be.
func FuzzParseSection(f *testing.F) {
	v, _ := section.New("mesh", section.Revision{Epoch: 1, Number: 2}, []section.Item{{Key: "a", Value: []byte("b")}, {Key: "c"}})
	whole := formatSection(Held{v, time.Unix(1, 2)})
	f.Add(whole, false)
	body, _ := unseal("section", whole)
	f.Add(body, true)
	f.Fuzz(func(t *testing.T, contents []byte, sealed bool) {
		if sealed { // get past the checksum
			contents = seal("section", contents)
		}
		h, err := parseSection(contents)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("got %v; want errDamaged", err)
			}
			return
		}
		again, err := parseSection(formatSection(h))
		if err != nil || again.Section.Digest != h.Section.Digest || again.Section.Revision != h.Section.Revision || !again.AppliedAt.Equal(h.AppliedAt) {
			t.Errorf("got %+v, %v; want %+v", again, err, h)
		}
	})
}
