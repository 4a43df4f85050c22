package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
)

func TestEnvelopesGoBothWays(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		c := dial(t, server.dialer(transport))
		for _, envelope := range []string{"hello", "", strings.Repeat("x", 100_000), "again"} {
			send(t, c, envelope)
			if got := receive(t, c); got != envelope {
				t.Fatalf("got %d bytes back, want the %d sent", len(got), len(envelope))
			}
		}
		p := <-server.peers
		if !bytes.Equal(p.link.Hash(), c.Hash()) || len(c.Hash()) != 32 {
			t.Fatalf("the ends disagree on the handshake's hash: %x and %x", p.link.Hash(), c.Hash())
		}
		if p.link.Transport() != transport || c.Transport() != transport {
			t.Fatalf("transports are %s and %s, want %s", p.link.Transport(), c.Transport(), transport)
		}
		if !p.link.Remote().IsLoopback() {
			t.Fatalf("remote is %v, want a loopback address", p.link.Remote())
		}
		if c.Keyset().Version != 1 {
			t.Fatalf("keyset version is %d, want 1", c.Keyset().Version)
		}
	})
}

func TestClosingTellsTheOtherEndWhy(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		removed := fault.New(fault.Denied, "host_removed", "this host was removed").WithRetryAfter(3 * time.Second)

		c := dial(t, server.dialer(transport))
		send(t, c, "x")
		receive(t, c)
		p := <-server.peers
		p.link.Close(removed)
		err := endOf(t, c)
		wantCode(t, "the agent's end", err, "host_removed")
		if f := fault.Of(err); f.Kind != fault.Denied || f.Message != removed.Message || f.RetryAfter != removed.RetryAfter {
			t.Fatalf("the reason arrived as %+v, want %+v", f, removed)
		}
		wantCode(t, "the server's end", p.ended(t), "host_removed")
		if err := p.link.Send([]byte("y")); !errors.Is(err, removed) {
			t.Fatalf("send on an ended link: got %v, want its reason", err)
		}

		c = dial(t, server.dialer(transport))
		send(t, c, "x")
		p = <-server.peers
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, "the server's end", p.ended(t), "link_closed")
		wantCode(t, "send after close", c.Send(t.Context(), nil), "link_closed")
	})
}

func TestAHandlerMayCloseItsLink(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(l *Link, envelope []byte) {
			l.Close(fault.New(fault.Denied, "refused", "no: %s", envelope))
		})
		c := dial(t, server.dialer(transport))
		send(t, c, "let me in")
		err := endOf(t, c)
		wantCode(t, "the agent's end", err, "refused")
		wantCode(t, "the server's end", (<-server.peers).ended(t), "refused")
	})
}

func TestConcurrentSendersOnBothEnds(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		const senders, each = 8, 40
		server := newControl(t, func(l *Link, envelope []byte) {
			copied := bytes.Clone(envelope)
			go func() { _ = l.Send(copied) }()
		})
		c := dial(t, server.dialer(transport))
		var sending sync.WaitGroup
		for s := range senders {
			sending.Go(func() {
				for i := range each {
					envelope := fmt.Sprintf("%d/%d/%s", s, i, strings.Repeat("z", (s*i*97)%9000))
					if err := c.Send(within(t, 20*time.Second), []byte(envelope)); err != nil {
						t.Errorf("send: %v", err)
						return
					}
				}
			})
		}
		seen := map[string]bool{}
		for range senders * each {
			seen[receive(t, c)] = true
		}
		sending.Wait()
		if len(seen) != senders*each {
			t.Fatalf("got %d different envelopes, want %d", len(seen), senders*each)
		}
	})
}

func TestProofHoldsOnItsLinkOnly(t *testing.T) {
	server := newControl(t, echo)
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	one, other := dial(t, server.dialer(WebSocket)), dial(t, server.dialer(WebSocket))
	p := SignProof(key, RoleHello, "hst_1", one.Hash())
	if err := VerifyProof(p, RoleHello, "hst_1", one.Hash()); err != nil {
		t.Fatalf("a true proof: %v", err)
	}
	for name, err := range map[string]error{
		"another link": VerifyProof(p, RoleHello, "hst_1", other.Hash()),
		"another host": VerifyProof(p, RoleHello, "hst_2", one.Hash()),
		"another role": VerifyProof(p, RoleEnrol, "", one.Hash()),
		"no proof":     VerifyProof(nil, RoleHello, "hst_1", one.Hash()),
		"short hash":   VerifyProof(p, RoleHello, "hst_1", one.Hash()[:31]),
	} {
		wantCode(t, name, err, "proof_invalid")
	}
}

func TestReceiveGivesUpWithoutEndingTheLink(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		c := dial(t, server.dialer(transport))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Receive(ctx)
		wantCode(t, "receive with a cancelled context", err, "canceled")
		send(t, c, "still there")
		if got := receive(t, c); got != "still there" {
			t.Fatalf("got %q", got)
		}
	})
}
