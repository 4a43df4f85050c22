package keys

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
)

func opened(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := Open(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.ReleaseKeys(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AuditKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Seal(); err != nil {
		t.Fatal(err)
	}
	return k
}

// invited is a second replica of a deployment, and the first with the keyset taken up.
func invited(t *testing.T) (first, second *Keys) {
	t.Helper()
	first = opened(t, t.TempDir())
	i, signed, err := first.Invite("", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed, code, err := i.Seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unseal(sealed, "0"+code[1:]+"0"); fault.Of(err) == nil || fault.Of(err).Code != "invitation_code" {
		t.Errorf("another code: got %v", err)
	}
	if i, err = Unseal(sealed, " "+code+"\n"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Join(dir, i, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := Join(dir, i, time.Now()); fault.Of(err) == nil || fault.Of(err).Code != "data_folder_in_use" {
		t.Errorf("joining again: got %v", err)
	}
	second = opened(t, dir)
	if changed, err := first.Adopt(signed); !changed || err != nil {
		t.Fatalf("adopt: %t, %v", changed, err)
	}
	return first, second
}

func TestAnInvitedReplicaIsListedAndSharesAllButItsOwn(t *testing.T) {
	first, second := invited(t)
	set, _ := first.Current()
	if set.Version != 2 || len(set.Replicas) != 2 || !set.Vouches(first.Link.PublicKey().Bytes()) || !set.Vouches(second.Link.PublicKey().Bytes()) {
		t.Errorf("keyset %d lists %d replicas", set.Version, len(set.Replicas))
	}
	if first.Name() != "replica-1" || second.Name() != "replica-2" {
		t.Errorf("they are called %s and %s", first.Name(), second.Name())
	}
	if string(first.Pepper) != string(second.Pepper) || first.Link.Equal(second.Link) || first.Peer.Equal(second.Peer) {
		t.Error("pepper must be the same, link key and replica key must not")
	}
	if _, _, err := second.Invite("", "", time.Now()); fault.Of(err) == nil || fault.Of(err).Code != "anchor_needed" {
		t.Errorf("the second has no anchor key, and inviting gives %v", err)
	}
	if _, _, err := second.Invite("", first.path("anchor.key"), time.Now()); err != nil {
		t.Errorf("with the anchor key named: %v", err)
	}
	again, err := Open(first.Dir, time.Now())
	if set, _ := again.Current(); err != nil || set.Version != 2 {
		t.Errorf("after a restart: keyset %d, %v", set.Version, err)
	}
	if _, _, err := first.Invite("replica2", "", time.Now()); fault.KindOf(err) != fault.Exists {
		t.Errorf("a name that differs by its dash: got %v", err)
	}
	i, _, err := first.Invite("third", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := Join(t.TempDir(), i, time.Now().Add(25*time.Hour)); fault.Of(err) == nil || fault.Of(err).Code != "invitation_expired" {
		t.Errorf("a day later: got %v", err)
	}
}

// shake tells whether two ends let each other in.
func shake(t *testing.T, server, client *Keys, only string) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	sc, err := server.PeerTLS("")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := client.PeerTLS(only)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, sc)
		err := s.HandshakeContext(t.Context())
		if err == nil {
			_, err = s.Write([]byte("x")) // the client hears of a refusal with its first read
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, cc)
	_, err = c.Read(make([]byte, 1))
	b.Close()
	if other := <-done; err == nil {
		err = other
	}
	return err
}

func TestReplicasLetInWhomTheKeysetListsAndNobodyElse(t *testing.T) {
	first, second := invited(t)
	if err := shake(t, first, second, "replica-1"); err != nil {
		t.Errorf("two replicas: %v", err)
	}
	if err := shake(t, first, second, "replica-2"); err == nil {
		t.Error("another replica than was meant was taken for it")
	}
	stranger := opened(t, t.TempDir())
	if who, signature := stranger.Sign([]byte("m")); !stranger.Verify(who, []byte("m"), signature) {
		t.Error("a first replica that has invited nobody does not know its own word")
	}
	if err := shake(t, first, stranger, ""); err == nil {
		t.Error("a replica of another deployment was let in")
	}
	who, signature := second.Sign([]byte("m"))
	if !first.Verify(who, []byte("m"), signature) || first.Verify(who, []byte("n"), signature) || first.Verify("replica-1", []byte("m"), signature) {
		t.Error("a signature means one message of one replica")
	}

	if _, err := first.Evict("replica-9", "", time.Now()); fault.Of(err).Code != "replica_not_found" || fault.Of(err).Hint != "the keyset lists replica-1, replica-2; which of them runs where: loopback replica list" {
		t.Errorf("evicting one that there is not: got %v, hint %q", err, fault.Of(err).Hint)
	}
	signed, err := first.Evict("replica-2", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Adopt(signed); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Adopt(signed); fault.Of(err) == nil || fault.Of(err).Code != "replica_evicted" {
		t.Errorf("the evicted one takes the keyset up: %v", err)
	}
	if err := shake(t, first, second, ""); err == nil {
		t.Error("an evicted replica was let in")
	}
	if first.Verify(who, []byte("m"), signature) {
		t.Error("an evicted replica's message was believed")
	}
	if _, err := first.Evict("replica-1", "", time.Now()); fault.Of(err).Code != "replica_last" {
		t.Errorf("the last one: %v", err)
	}
}
