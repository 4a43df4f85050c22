package keys

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// The anchor key is on another machine: invitations and evictions are signed there, and what was signed is not more than
// what was asked for.
func TestKeysetsAreSignedWhereTheAnchorKeyIs(t *testing.T) {
	first := opened(t, t.TempDir())
	if _, _, err := first.ReleaseKeys(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.AuditKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Seal(); err != nil {
		t.Fatal(err)
	}
	away := filepath.Join(t.TempDir(), "anchor.key")
	if err := os.Rename(first.path("anchor.key"), away); err != nil {
		t.Fatal(err)
	}
	if _, _, err := first.Invite("", "", time.Now()); fault.Of(err).Code != "anchor_needed" {
		t.Fatalf("without the anchor key: got %v", err)
	}
	carry := func(r Request) Request { // as a file
		t.Helper()
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out, err := ReadRequest(b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	invitation, request, err := first.RequestInvite("", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(*Request){
		"another anchor next": func(r *Request) { r.Next.NextAnchor = make([]byte, 32) },
		"another anchor":      func(r *Request) { r.Next.Anchor = make([]byte, 32) },
		"another deployment":  func(r *Request) { r.Next.Deployment = "dep_other" },
		"a version skipped":   func(r *Request) { r.Next.Version++ },
		"a link key more":     func(r *Request) { r.Next.LinkKeys = append(r.Next.LinkKeys, make([]byte, 32)) },
		"another link key":    func(r *Request) { r.Next.LinkKeys[0] = make([]byte, 32) },
		"one more than it says": func(r *Request) {
			r.Next = withReplica(r.Next, trust.Replica{Name: "thief", LinkKey: []byte("l"), PeerKey: []byte("p")})
		},
		"another than it says":   func(r *Request) { r.Replica = "replica-9" },
		"an eviction that is no": func(r *Request) { r.Act = ActEvict },
		"the first one's key": func(r *Request) {
			self, _ := r.Next.Replica(FirstReplica)
			self.LinkKey = make([]byte, 32)
			r.Next = withReplica(r.Next, self)
		},
	} {
		altered := carry(request)
		alter(&altered)
		if _, _, err := altered.Sign(away, time.Now()); fault.Of(err).Code != "request_refused" {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if _, _, err := carry(request).Sign(opened(t, t.TempDir()).path("anchor.key"), time.Now()); fault.Of(err).Code != "request_refused" {
		t.Errorf("by another deployment's anchor: got %v", err)
	}
	signed, d, err := carry(request).Sign(away, time.Now())
	if err != nil || len(d.Added) != 2 || d.Added[1] != "replica-2" {
		t.Fatalf("got %+v, %v", d, err)
	}

	sealed, code, err := invitation.Seal()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	taken, err := Unseal(sealed, code)
	if err != nil {
		t.Fatal(err)
	}
	if err := Join(dir, taken, time.Now()); fault.Of(err).Code != "keyset_missing" {
		t.Errorf("without its keyset: got %v", err)
	}
	_, before := first.Current()
	if err := taken.Complete(before); fault.Of(err).Code != "keyset_other" {
		t.Errorf("with a keyset that does not list it: got %v", err)
	}
	if err := taken.Complete(signed); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(dir), Join(dir, taken, time.Now())); err != nil {
		t.Fatal(err)
	}
	second := opened(t, dir)
	if changed, err := first.Adopt(signed); err != nil || !changed {
		t.Fatalf("the first takes it up: %t, %v", changed, err)
	}
	if err := shake(t, first, second, ""); err != nil {
		t.Errorf("they do not know each other: %v", err)
	}

	// And out again.
	request, err = first.RequestEvict("replica-2")
	if err != nil {
		t.Fatal(err)
	}
	signed, d, err = carry(request).Sign(away, time.Now())
	if err != nil || len(d.Removed) != 1 || d.Removed[0] != "replica-2" {
		t.Fatalf("got %+v, %v", d, err)
	}
	if _, err := second.Adopt(signed); fault.Of(err).Code != "replica_evicted" {
		t.Errorf("the evicted one: got %v", err)
	}
}
