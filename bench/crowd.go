package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// crowd is a process that plays thousands of agents, or as many ends of a rival's connections. Each line on its input is
// an order, and each is answered by a line when it is done.
type crowd struct {
	n       int
	process *rival
}

// order is one of: agents, enrol, run, mark, back, pace, expect, reported; or for a rival: floor, echo.
type order struct {
	Do      string        `json:"do"`
	Agents  mission       `json:"agents"`
	Kind    string        `json:"kind"` // of the rival
	Address string        `json:"address"`
	N       int           `json:"n"`
	Every   time.Duration `json:"every"`
	For     time.Duration `json:"for"`
}

// mission is what a crowd's agents have to know.
type mission struct {
	URL    string           `json:"url"`
	Roots  []byte           `json:"roots"` // PEM
	Anchor trust.AnchorHash `json:"anchor"`
	Token  string           `json:"token"`
	From   int              `json:"from"` // number of the first
	N      int              `json:"n"`
}

type answer struct {
	Error string  `json:"error,omitempty"`
	Count int64   `json:"count,omitempty"`
	Times []int64 `json:"times,omitempty"` // in nanoseconds since 1970
}

// A crowd stands back: its members would be machines of their own, and must not keep the control plane, or an operator's
// call, from a processor.
const standingBack = 10

func (b *bench) startCrowd(ctx context.Context, n int) (*crowd, error) {
	r, _, err := startRivalBy(exec.CommandContext(ctx, "nice", "-n", strconv.Itoa(standingBack), b.self, "rival", "crowd"))
	return &crowd{n, r}, err
}

// renice moves a crowd's threads, those that it will start included, to another niceness.
func (c *crowd) renice(to int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.process.pid()))
	for _, t := range threads {
		id, convErr := strconv.Atoi(t.Name())
		if err = errors.Join(err, convErr); err != nil {
			break
		}
		if e := syscall.Setpriority(syscall.PRIO_PROCESS, id, to); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = e
		}
	}
	return err
}

func (c *crowd) ask(o order) (answer, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	said, err := c.process.ask(string(line))
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", o.Do, err)
	}
	var a answer
	if err := json.Unmarshal([]byte(said), &a); err != nil {
		return answer{}, err
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s", o.Do, a.Error)
	}
	return a, nil
}

// askAll gives every crowd the same order at the same time.
func askAll(crowds []*crowd, o order) ([]answer, error) {
	out := make([]answer, len(crowds))
	return out, each(len(crowds), len(crowds), func(i int) (err error) {
		out[i], err = crowds[i].ask(o)
		return err
	})
}

// playCrowd is this program as a crowd.
func playCrowd() error {
	// Each member would collect its own garbage on its own processor.
	debug.SetGCPercent(400)
	ctx, stop := context.WithCancel(context.Background())
	m := &members{}
	defer m.part()
	defer stop()
	fmt.Println("ready")
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		a, err := m.obey(ctx, o)
		if err != nil {
			a.Error = err.Error()
		}
		if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
			return err
		}
	}
}

// members are a crowd from within.
type members struct {
	agents []*fleet.Agent
	fleet  *fleet.Fleet
	pace   atomic.Int64
	marked int // links ever, when it was marked

	mu       sync.Mutex
	reported []int64

	sockets *sockets
	floor   []net.Conn
}

func (m *members) obey(ctx context.Context, o order) (answer, error) {
	switch o.Do {
	case "agents":
		return answer{}, m.make(o.Agents)
	case "enrol":
		return answer{}, each(len(m.agents), abreast, func(i int) error { return m.agents[i].Enrol(ctx) })
	case "run":
		m.fleet = fleet.Run(ctx, len(m.agents), abreast, func(i int) *fleet.Agent { return m.agents[i] })
		return answer{}, m.await(ctx, func(c fleet.Counts) bool { return c.Linked == len(m.agents) })
	case "mark":
		m.marked = m.fleet.Counts().Links
		return answer{}, nil
	case "back":
		err := m.await(ctx, func(c fleet.Counts) bool {
			return c.Linked == len(m.agents) && c.Links >= m.marked+len(m.agents)
		})
		return answer{Times: []int64{time.Now().UnixNano()}}, err
	case "pace":
		m.pace.Store(int64(o.Every))
		return answer{}, nil
	case "pulses":
		return answer{Count: int64(m.fleet.Counts().Pulses)}, nil
	case "expect":
		m.mu.Lock()
		m.reported = nil
		m.mu.Unlock()
		return answer{}, nil
	case "reported":
		err := m.await(ctx, func(fleet.Counts) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.reported) >= len(m.agents)
		})
		m.mu.Lock()
		defer m.mu.Unlock()
		return answer{Times: m.reported}, err
	case "floor":
		return answer{}, m.dialFloor(ctx, o)
	case "echo":
		return m.echo(ctx, o)
	}
	return answer{}, fmt.Errorf("there is no order %q", o.Do)
}

// patience is how long a crowd waits for its members.
const patience = 3 * time.Minute

// await looks at the counts from time to time: waking for each of ten thousand events would cost what is measured.
func (m *members) await(ctx context.Context, done func(fleet.Counts) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done(m.fleet.Counts()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the agents, which are at %+v: %w", m.fleet.Counts(), ctx.Err())
		}
	}
	return nil
}

func (m *members) make(o mission) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.Roots) {
		return errors.New("the control plane's CA certificate cannot be read")
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: verifyOnce(roots)}
	m.agents = make([]*fleet.Agent, o.N)
	for i := range m.agents {
		number := o.From + i
		own := config.Clone()
		own.ClientSessionCache = tls.NewLRUClientSessionCache(1) // as agents have
		m.agents[i] = &fleet.Agent{
			Dialer: wire.Dialer{Endpoint: o.URL, Transport: wire.WebSocket, Anchor: o.Anchor, Timeout: 30 * time.Second, Connect: from(9, number).DialContext, TLS: own},
			Token:  o.Token, Name: fmt.Sprintf("host-%06d", number), Version: "0.0.0-simulated", BootID: fmt.Sprintf("boot-%06d", number),
			Pace: &m.pace, Reported: m.report,
		}
	}
	return nil
}

// verifyOnce verifies a certificate's chain for the first agent that is shown it, as each of thousands of machines would
// for itself: what they would spend must not be taken from the control plane, which is what is measured. That the control
// plane has the certificate's key is verified in every handshake.
func verifyOnce(roots *x509.CertPool) func(tls.ConnectionState) error {
	var known sync.Map
	return func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		if _, ok := known.Load(string(leaf.Raw)); ok {
			return nil
		}
		o := x509.VerifyOptions{Roots: roots, DNSName: s.ServerName, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := leaf.Verify(o)
		if err == nil {
			known.Store(string(leaf.Raw), true)
		}
		return err
	}
}

func (m *members) report(section.Status) {
	now := time.Now().UnixNano()
	m.mu.Lock()
	m.reported = append(m.reported, now)
	m.mu.Unlock()
}

// part ends everything; the members' context has ended before.
func (m *members) part() {
	if m.fleet != nil {
		m.fleet.Stop()
	}
	if m.sockets != nil {
		m.sockets.close()
	}
	for _, c := range m.floor {
		_ = c.Close() // the rival sees it
	}
}
