package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// HelperEnvironment names the variable by which a program knows that it was started as a helper.
const HelperEnvironment = "LOOPBACK_FLEET_HELPER"

// Mission is what a helper process does.
type Mission struct {
	Endpoint    string           `json:"endpoint"`
	Addresses   []string         `json:"addresses"`   // HOST:PORT, which the endpoint's name stands for; none: what it says
	Certificate []byte           `json:"certificate"` // to trust, in DER; its first DNS name is asked for, or the endpoint's
	Anchor      trust.AnchorHash `json:"anchor"`
	Transport   string           `json:"transport"`
	Token       string           `json:"token"`
	Agents      int              `json:"agents"`
	Dials       int              `json:"dials"`
	Prefix      string           `json:"prefix"`  // of the agents' names
	Timeout     time.Duration    `json:"timeout"` // of each step of dialling; 0: the dialer's own
}

// Mission is one to this control plane.
func (c *Control) Mission(agents int) Mission {
	return Mission{Endpoint: "https://" + c.Address(), Certificate: c.Certificate(), Anchor: c.Anchor(),
		Transport: wire.WebSocket, Token: "token", Agents: agents, Dials: 32}
}

// oneOf connects to the address that took the last connection, or where it takes none, to any other: what a name with
// several addresses comes to. Agents begin at different ones.
func oneOf(addresses []string, i int) func(context.Context, string, string) (net.Conn, error) {
	var at atomic.Int64
	at.Store(int64(i))
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var failed error
		for range addresses {
			n := at.Load()
			c, err := (&net.Dialer{}).DialContext(ctx, network, addresses[int(n)%len(addresses)])
			if err == nil {
				return c, nil
			}
			at.CompareAndSwap(n, int64(mathrand.IntN(len(addresses))))
			failed = errors.Join(failed, err)
		}
		return nil, failed
	}
}

// Helper is a fleet in a process of its own, so that what the control plane's process takes is the control plane's alone.
type Helper struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// PID of the process.
func (h *Helper) PID() int { return h.command.Process.Pid }

// StartHelper runs this program again as a helper; its main (or TestMain) hands over to HelperMain where
// HelperEnvironment is set.
func StartHelper(ctx context.Context, m Mission) (*Helper, error) {
	command := exec.CommandContext(ctx, "/proc/self/exe")
	command.Env = append(os.Environ(), HelperEnvironment+"=1")
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	h := &Helper{command, in, bufio.NewReader(out)}
	if err := json.NewEncoder(in).Encode(m); err != nil {
		return nil, err
	}
	return h, nil
}

// Linked returns when all agents are linked.
func (h *Helper) Linked() error {
	line, err := h.out.ReadString('\n')
	if err == nil && line != "linked\n" {
		err = fmt.Errorf("the helper said %q", line)
	}
	return err
}

// Stop ends the helper and waits for it.
func (h *Helper) Stop() error {
	_ = h.in.Close() // that is the word for it to go
	return h.command.Wait()
}

// HelperMain is a helper's whole life: it reads its mission from in, says "linked" on out when all are, and goes when in
// ends.
func HelperMain(in io.Reader, out io.Writer) error {
	var m Mission
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&m); err != nil {
		return fmt.Errorf("reading the mission: %w", err)
	}
	certificate, err := x509.ParseCertificate(m.Certificate)
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if len(certificate.DNSNames) > 0 {
		config.ServerName = certificate.DNSNames[0]
	}
	f := Run(ctx, m.Agents, m.Dials, func(i int) *Agent {
		own := config.Clone()
		own.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		d := wire.Dialer{Endpoint: m.Endpoint, Transport: m.Transport, Anchor: m.Anchor, TLS: own, Timeout: m.Timeout}
		if len(m.Addresses) > 0 {
			d.Connect = oneOf(m.Addresses, i)
		}
		return &Agent{Token: m.Token, Name: fmt.Sprintf("%s%06d", m.Prefix, i), BootID: fmt.Sprintf("boot-%s%06d", m.Prefix, i), Dialer: d}
	})
	defer f.Stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, io.MultiReader(decoder.Buffered(), in))
		cancel()
	}()
	if f.Wait(ctx, func(c Counts) bool { return c.Linked == m.Agents }) == nil {
		if _, err := io.WriteString(out, "linked\n"); err != nil {
			return err
		}
	}
	<-gone
	return nil
}
