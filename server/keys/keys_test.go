package keys

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := Open(dir, start)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeysSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	if !a.Made || b.Made {
		t.Errorf("made: first %v, second %v; want true, false", a.Made, b.Made)
	}
	if !a.Anchor.Equal(b.Anchor) || !a.Link.Equal(b.Link) || string(a.Pepper) != string(b.Pepper) || a.Keyset.Version != b.Keyset.Version {
		t.Error("the second start read other keys than the first made")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if st, _ := os.Stat(f); st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", filepath.Base(f), st.Mode().Perm())
		}
	}
}

// A first start cut short after any file was written is completed by the next.
func TestFirstStartCutShort(t *testing.T) {
	for _, left := range []string{"", "anchor.key", "anchor.key pepper", "anchor.key pepper link.key"} {
		whole, dir := t.TempDir(), t.TempDir()
		open(t, whole)
		for _, name := range []string{"anchor.key", "pepper", "link.key"} {
			if slices.Contains(strings.Fields(left), name) {
				b, _ := os.ReadFile(filepath.Join(whole, name))
				os.WriteFile(filepath.Join(dir, name), b, 0o600)
			}
		}
		k := open(t, dir)
		if _, err := k.Signed.Verify(trust.HashAnchor(k.Anchor), 1); err != nil || !k.Keyset.Vouches(k.Link.PublicKey().Bytes()) {
			t.Errorf("after %q: keyset does not vouch: %v", left, err)
		}
	}
}

func TestLostLinkKeyRenewsTheKeyset(t *testing.T) {
	dir := t.TempDir()
	before := open(t, dir)
	os.Remove(filepath.Join(dir, "link.key"))
	after := open(t, dir)
	if after.Keyset.Version != before.Keyset.Version+1 || !after.Keyset.Vouches(after.Link.PublicKey().Bytes()) || after.Keyset.Vouches(before.Link.PublicKey().Bytes()) {
		t.Errorf("keyset version %d, want %d with only the new link key", after.Keyset.Version, before.Keyset.Version+1)
	}
	if !after.Anchor.Equal(before.Anchor) {
		t.Error("the anchor changed: hosts would not know us")
	}
}

func TestAnchorMayBeAway(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	os.Remove(filepath.Join(dir, "anchor.key"))
	open(t, dir)
	os.Remove(filepath.Join(dir, "link.key"))
	if _, err := Open(dir, start); fault.Of(err).Code != "anchor_needed" {
		t.Errorf("got %v, want anchor_needed", err)
	}
}

func TestDamagedFilesAreNamed(t *testing.T) {
	for file, code := range map[string]string{"pepper": "pepper_lost", "keyset.json": "key_corrupt"} {
		dir := t.TempDir()
		open(t, dir)
		os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o600)
		if _, err := Open(dir, start); fault.Of(err).Code != code {
			t.Errorf("%s damaged: got %v, want %s", file, err, code)
		}
	}
}

func TestLocalCAServesTheNamesAndKeepsItsPin(t *testing.T) {
	dir := t.TempDir()
	now := start
	clock := func() time.Time { return now }
	c, err := open(t, dir).LocalCA([]string{"cp.example", "10.0.0.1"}, clock)
	if err != nil {
		t.Fatal(err)
	}
	pin, ca := c.Pin(), c.CAPEM()
	now = now.Add(serverLife) // the first certificate is over
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, server := net.Pipe()
	go tls.Server(server, c.TLS()).Handshake()
	conn := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "10.0.0.1", Time: clock})
	if err := conn.Handshake(); err != nil {
		t.Fatalf("handshake after renewal: %v", err)
	}
	again, err := open(t, dir).LocalCA([]string{"cp.example"}, clock)
	if err != nil {
		t.Fatal(err)
	}
	if again.Pin() != pin || string(again.CAPEM()) != string(ca) || c.Fingerprint() != again.Fingerprint() {
		t.Error("the pin or the CA changed at a restart")
	}
}

func TestGivenCertificateIsFollowed(t *testing.T) {
	dir := t.TempDir()
	if _, err := FromFiles(filepath.Join(dir, "none.crt"), filepath.Join(dir, "none.key"), time.Now); fault.Of(err).Code != "tls_certificate_invalid" {
		t.Errorf("got %v, want tls_certificate_invalid", err)
	}
}
