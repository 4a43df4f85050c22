package keys_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/keys"
)

func TestSessionsAreTakenUpAgain(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	serving := func(dir string) (*tls.Config, *x509.Certificate) {
		k, err := keys.Open(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		c, err := k.LocalCA([]string{"cp.example"}, clock)
		if err != nil {
			t.Fatal(err)
		}
		return k.Resumable(c.TLS(), clock), c.CA()
	}
	dir := t.TempDir()
	config, ca := serving(dir)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	sessions := tls.NewLRUClientSessionCache(1)
	resumed := func(config *tls.Config) bool {
		t.Helper()
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() {
			s := tls.Server(far, config)
			_, err := s.Write([]byte{1}) // the ticket comes before it
			served <- err
		}()
		c := tls.Client(near, &tls.Config{ServerName: "cp.example", RootCAs: roots, ClientSessionCache: sessions, Time: clock})
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		near.Close()
		return c.ConnectionState().DidResume
	}
	if resumed(config) {
		t.Error("the first connection resumed a session")
	}
	again, _ := serving(dir) // restarted, or another replica with the same keys
	if !resumed(again) {
		t.Error("a session was not taken up by who has the same keys")
	}
	now = now.Add(24 * time.Hour)
	if !resumed(again) {
		t.Error("a session of yesterday was not taken up")
	}
	now = now.Add(48 * time.Hour)
	if resumed(again) {
		t.Error("a session was taken up three days later")
	}
	other, otherCA := serving(t.TempDir())
	roots.AddCert(otherCA)
	if resumed(other) {
		t.Error("another deployment took up a session")
	}
}
