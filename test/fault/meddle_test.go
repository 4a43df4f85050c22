package fault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// meddler terminates TLS, as a proxy does whose certificate the machines were made to trust, and does to what passes
// whatever somebody there could: it alters bytes, leaves out, repeats at once or much later, holds back, stops for good.
type meddler struct {
	address  string
	roots    *x509.CertPool
	listener net.Listener
	to       string
	serving  sync.WaitGroup
	honest   atomic.Bool // from now on it passes all on

	mu    sync.Mutex
	dice  *mathrand.Rand
	seen  [][]byte // some of what passed, to be sent again on any link
	done  map[string]int
	conns map[net.Conn]bool
}

func newMeddler(t *testing.T, to string, dice *mathrand.Rand) *meddler {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{address: l.Addr().String(), roots: x509.NewCertPool(), listener: l, to: to, dice: dice, done: map[string]int{}, conns: map[net.Conn]bool{}}
	m.roots.AddCert(leaf)
	m.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.serving.Go(func() { m.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		m.mu.Lock()
		for c := range m.conns {
			c.Close()
		}
		m.mu.Unlock()
		m.serving.Wait()
	})
	return m
}

func (m *meddler) carry(client net.Conn) {
	defer client.Close()
	server, err := tls.Dial("tcp", m.to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // nobody checks the meddler
	if err != nil {
		return
	}
	defer server.Close()
	m.mu.Lock()
	m.conns[client], m.conns[server] = true, true
	m.mu.Unlock()
	var both sync.WaitGroup
	pipe := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				for _, b := range m.meddle(append([]byte(nil), buffer[:n]...)) {
					if _, err := to.Write(b); err != nil {
						return
					}
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, client)
	delete(m.conns, server)
}

// meddle does something to one piece in eight.
func (m *meddler) meddle(b []byte) [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.honest.Load() {
		return [][]byte{b}
	}
	if len(m.seen) < 200 {
		m.seen = append(m.seen, b)
	} else {
		m.seen[m.dice.IntN(len(m.seen))] = b
	}
	did := func(what string, out ...[]byte) [][]byte { m.done[what]++; return out }
	switch m.dice.IntN(48) {
	case 0:
		c := append([]byte(nil), b...)
		c[m.dice.IntN(len(c))] ^= 1 << m.dice.IntN(8)
		return did("altered", c)
	case 1:
		return did("left out")
	case 2:
		return did("repeated", b, b)
	case 3:
		return did("replayed what was heard before", m.seen[m.dice.IntN(len(m.seen))], b)
	case 4:
		return did("replayed instead", m.seen[m.dice.IntN(len(m.seen))])
	case 5:
		return did("cut short", b[:m.dice.IntN(len(b))])
	}
	return [][]byte{b}
}

// Whatever somebody does on the way, no agent applies what the control plane did not send, nothing that an agent did not
// say changes the control plane's state, and once the way is honest all is as it should be.
func TestSomebodyMeddlesOnTheWay(t *testing.T) {
	d := start(t)
	_, secret := mint(t, d, 100)
	const n = 12
	honest := agents(t, d, 2, secret, nil)
	await(t, honest, 30*time.Second, func(c fleet.Counts) bool { return c.Linked == 2 })
	m := newMeddler(t, d.Address, dice(t))
	m.honest.Store(true) // they enrol in peace: what a lost enrolment costs has tests of its own

	var mu sync.Mutex
	applied := map[section.Digest]int{}
	f := agents(t, d, n, secret, func(i int, a *fleet.Agent) {
		a.Dialer.Endpoint, a.Dialer.TLS, a.Dialer.Timeout = "https://"+m.address, &tls.Config{RootCAs: m.roots, MinVersion: tls.VersionTLS13}, 5*time.Second
		if i%2 == 1 {
			a.Dialer.Transport = wire.Poll
		}
		a.Apply = func(s section.Section) section.Status {
			mu.Lock()
			applied[s.Digest]++
			mu.Unlock()
			return section.Status{Name: s.Name, Revision: s.Revision, Digest: s.Digest, State: section.Applied}
		}
	})
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == n })
	before, err := d.AllHosts(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	genuine := map[section.Digest]string{honest.Agents[0].Holds("settings").Digest: "at first"}
	say := func(level string) {
		t.Helper()
		if _, err := d.Settings.SetSettings(within(t, 10*time.Second), connect.NewRequest(&pb.SetSettingsRequest{Workspace: d.Workspace, Settings: &pb.AgentSettings{LogLevel: level}})); err != nil {
			t.Fatal(err)
		}
		await(t, honest, 20*time.Second, func(fleet.Counts) bool { return levelOf(honest.Agents[0]) == level })
		genuine[honest.Agents[0].Holds("settings").Digest] = level
	}
	m.honest.Store(false)
	began := time.Now()
	for round := 0; time.Since(began) < time.Duration(size(15, 600))*time.Second; round++ {
		say([]string{"debug", "warn", "error", "info"}[round%4])
		select {
		case <-time.After(200 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	m.honest.Store(true)
	say("debug")
	// Some links stand on a lie: what was held back or cut short never comes. They are found by their silence.
	await(t, f, 3*time.Minute, func(c fleet.Counts) bool {
		for _, a := range f.Agents {
			if levelOf(a) != "debug" {
				return false
			}
		}
		return c.Linked == n
	})
	mu.Lock()
	for digest, times := range applied {
		if genuine[digest] == "" {
			t.Errorf("something that the control plane did not send was applied %d times: %x", times, digest)
		}
	}
	mu.Unlock()
	m.mu.Lock()
	t.Logf("it meddled: %v; links ended by %v; %d values were applied", m.done, f.Counts().Endings, len(applied))
	if len(m.done) < 6 {
		t.Errorf("it did only %v", m.done)
	}
	m.mu.Unlock()
	// The control plane: the same hosts under the same names, none locked, and nobody did anything but set settings.
	eventually(t, "all hosts managed", func() (string, bool) {
		after, err := d.AllHosts(within(t, 10*time.Second))
		if err != nil || len(after) != len(before) {
			return fmt.Sprintf("%d hosts, were %d: %v", len(after), len(before), err), false
		}
		names := map[string]string{}
		for _, h := range before {
			names[h.GetId()] = h.GetName()
		}
		for _, h := range after {
			if h.GetState() != "managed" || names[h.GetId()] != h.GetName() {
				return fmt.Sprintf("%s (%s) is %s: %s", h.GetName(), names[h.GetId()], h.GetState(), h.GetReason()), false
			}
		}
		return "", true
	})
	entries, err := d.Entries(within(t, time.Minute), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.GetAction() {
		case "settings.set", "agent_tokens.mint", "agent_tokens.use", "hosts.enrol", "audit.read", "bootstrap.redeem", "api_keys.create":
		default:
			if e.GetActor().GetKind() == "host" || e.GetActor().GetKind() == "system" {
				t.Logf("also in the audit log: %s by %s %s on %s", e.GetAction(), e.GetActor().GetKind(), e.GetActor().GetName(), e.GetTargetName())
			}
		}
	}
}
