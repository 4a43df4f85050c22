package wire

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/trust"
)

// FuzzRespond: what a stranger sends first is answered or refused, and an answer is never larger than a message.
func FuzzRespond(f *testing.F) {
	d := newDeployment(f, 1)
	_, first, _ := initiate()
	f.Add(first)
	f.Add(append(bytes.Clone(first), "later versions"...))
	f.Add(make([]byte, 32))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, first []byte) {
		second, s, err := respond(d.keys, first, rekeyInterval)
		if (err == nil) != (s != nil) || len(second) > maxMessage {
			t.Fatalf("got %d bytes, %v", len(second), err)
		}
		if err == nil && len(first) < firstSize {
			t.Fatalf("a first message of %d bytes was answered", len(first))
		}
	})
}

// FuzzFinish: only the very answer opens.
func FuzzFinish(f *testing.F) {
	d := newDeployment(f, 1)
	_, first, _ := initiate()
	second, _, _ := respond(d.keys, first, rekeyInterval)
	f.Add(second)
	f.Add(second[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, second []byte) {
		agent, _, err := initiate()
		if err != nil {
			t.Fatal(err)
		}
		if s, _, _, err := agent.finish(second, []trust.AnchorHash{d.hash()}, 0, rekeyInterval); err == nil || s != nil {
			t.Fatal("an answer that was not to this handshake was taken")
		}
	})
}

// FuzzFragment: any sequence of fragments leaves the assembly within its bounds.
func FuzzFragment(f *testing.F) {
	f.Add([]byte("\x03\x01abc\x02\x00a\x01\x01"))
	f.Add([]byte("\x20\x02denied\x00code\x00100\x00message"))
	f.Fuzz(func(t *testing.T, script []byte) {
		parts := assembly{budget: &budget{limit: 2000}}
		for len(script) > 1 {
			n := min(int(script[0])*8+1, len(script)-1)
			plain := script[1 : 1+n]
			script = script[1+n:]
			held := len(parts.parts)
			envelope, complete, err := parts.add(plain)
			if complete && len(envelope) != held+n-1 {
				t.Fatalf("an envelope of %d bytes came of %d and %d", len(envelope), held, n-1)
			}
			if used := parts.budget.used.Load(); used != int64(len(parts.parts)) || used > 2000 {
				t.Fatalf("%d bytes are held, %d counted", len(parts.parts), used)
			}
			if err != nil {
				break
			}
		}
		parts.reset()
		if used := parts.budget.used.Load(); used != 0 {
			t.Fatalf("%d bytes are not given back", used)
		}
	})
}

// FuzzReason: a peer's last word is read or refused, and fits on one line of a terminal.
func FuzzReason(f *testing.F) {
	f.Add(encodeReason(ErrTampered))
	f.Add([]byte("internal\x00x\x000\x00a\nb\x1b[2J"))
	f.Fuzz(func(t *testing.T, b []byte) {
		reason := decodeReason(b)
		if reason == nil || reason.Code == "" || strings.ContainsAny(reason.Message, "\n\r\x1b\x00") || reason.RetryAfter < 0 {
			t.Fatalf("got %+v", reason)
		}
	})
}

// FuzzPollBody: a body splits into what was joined, or not at all.
func FuzzPollBody(f *testing.F) {
	f.Add(appendMessage(appendMessage(nil, []byte("one")), []byte("two")))
	f.Add([]byte{0, 9, 1})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, body []byte) {
		var again []byte
		err := splitBody(body, func(m []byte) bool { again = appendMessage(again, m); return true })
		if err == nil && !bytes.Equal(again, body) {
			t.Fatalf("%x became %x", body, again)
		}
		if err != nil && again != nil {
			t.Fatalf("%x was refused and yet passed on in part", body)
		}
		if err == nil && cutBody(body) > maxBody {
			t.Fatalf("a cut of %d bytes", cutBody(body))
		}
	})
}

// FuzzSocketMessage: an agent's WebSocket reads messages or errors, within bounds.
func FuzzSocketMessage(f *testing.F) {
	f.Add(anyFrame(false, 0x82, []byte("hello")))
	f.Add(anyFrame(false, 0x82, make([]byte, 70_000)))
	f.Add(append(anyFrame(false, 0x02, []byte("he")), append(anyFrame(false, 0x89, []byte("ping")), anyFrame(false, 0x80, []byte("llo"))...)...))
	f.Add([]byte{0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReader(bytes.NewReader(stream))
		for {
			m, err := readSocketMessage(r, nil, func(opcode byte, payload []byte) error {
				if len(payload) > 125 || opcode < opClose {
					t.Fatalf("control frame %x of %d bytes", opcode, len(payload))
				}
				return nil
			})
			if len(m) > maxMessage {
				t.Fatalf("a message of %d bytes", len(m))
			}
			if err != nil {
				return
			}
		}
	})
}

// FuzzProof: nothing but the proof that was signed holds.
func FuzzProof(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	hash := bytes.Repeat([]byte{7}, 32)
	p := SignProof(key, RoleHello, "hst_1", hash)
	f.Add([]byte(p.PublicKey), p.Signature, RoleHello, "hst_1", hash)
	f.Add([]byte(p.PublicKey), p.Signature, RoleEnrol, "", hash)
	f.Add([]byte{}, []byte{}, "", "", []byte{})
	f.Fuzz(func(t *testing.T, public, signature []byte, role, hostID string, h []byte) {
		err := VerifyProof(&loopbackv1.Proof{PublicKey: public, Signature: signature}, role, hostID, h)
		same := bytes.Equal(public, p.PublicKey) && bytes.Equal(signature, p.Signature) && role == RoleHello && hostID == "hst_1" && bytes.Equal(h, hash)
		if bytes.Equal(public, p.PublicKey) && (err == nil) != same {
			t.Fatalf("a proof for %q, %q: %v", role, hostID, err)
		}
	})
}

// FuzzRemote: no header makes an address out of nothing, and none counts from a peer that is not trusted.
func FuzzRemote(f *testing.F) {
	f.Add("10.0.0.1:1", "1.2.3.4, 10.0.0.2")
	f.Add("[::1]:1", "[2001:db8::1]:80, ::ffff:10.0.0.9")
	f.Add("junk", ",,")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, peer, forwarded string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {forwarded}}}
		direct := remoteOf(r, nil)
		if got := remoteOf(r, trusted); !isTrusted(direct, trusted) && got != direct {
			t.Fatalf("%q, not trusted, passed for %v", peer, got)
		}
	})
}
