package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

var discardLog = log.New(io.Discard, "", 0)

func TestAnInterceptorLearnsNothing(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(l *Link, envelope []byte) { _ = l.Send(append([]byte("desired-state-secret "), envelope...)) })
		x := newMiddle(t, server, pass)
		c := dial(t, x.dialer(server, transport))
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		proof := SignProof(key, RoleEnrol, "", c.Hash())
		secrets := []string{"lbt_planted-token-secret", string(proof.PublicKey), string(proof.Signature), strings.Repeat("inventory ", 20_000)}
		for _, secret := range secrets {
			send(t, c, secret)
			if got := receive(t, c); got != "desired-state-secret "+secret {
				t.Fatalf("got %.40q back", got)
			}
		}
		p := <-server.peers
		p.link.Close(fault.New(fault.Denied, "reason_secret", "message secret"))
		wantCode(t, "through an interceptor that only reads", endOf(t, c), "reason_secret")
		for _, secret := range append(secrets[:3], "inventory", "desired-state-secret", "reason_secret", "message secret", string(c.Hash()),
			string(server.keys.Keyset.Signature), "dep_test") {
			if x.saw(secret) {
				t.Errorf("the interceptor read %.40q", secret)
			}
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.transcript.Len() < 400_000 {
			t.Fatalf("the interceptor saw %d bytes, want all of more than 400,000", x.transcript.Len())
		}
	})
}

// meddling is one thing that an interceptor does to the messages of one direction. It may keep some in mind.
type meddling struct {
	name string
	make func(up bool) meddle
}

// at applies change to the n-th message of a direction.
func at(up bool, n int, change func(m []byte) [][]byte) meddle {
	return func(u bool, i int, m []byte) [][]byte {
		if u == up && i == n {
			return change(m)
		}
		return [][]byte{m}
	}
}

func flip(i int) func(m []byte) [][]byte {
	return func(m []byte) [][]byte {
		if i < 0 {
			i += len(m)
		}
		m[i] ^= 0x40
		return [][]byte{m}
	}
}

// meddlings after the handshake: message 2 is the second sealed one.
var meddlings = []meddling{
	{"alters the first byte", func(up bool) meddle { return at(up, 2, flip(0)) }},
	{"alters the tag", func(up bool) meddle { return at(up, 2, flip(-1)) }},
	{"drops", func(up bool) meddle { return at(up, 2, func([]byte) [][]byte { return nil }) }},
	{"duplicates", func(up bool) meddle { return at(up, 2, func(m []byte) [][]byte { return [][]byte{m, m} }) }},
	{"truncates by a byte", func(up bool) meddle { return at(up, 2, func(m []byte) [][]byte { return [][]byte{m[:len(m)-1]} }) }},
	{"truncates to less than a tag", func(up bool) meddle { return at(up, 2, func(m []byte) [][]byte { return [][]byte{m[:9]} }) }},
	{"truncates to nothing", func(up bool) meddle { return at(up, 2, func(m []byte) [][]byte { return [][]byte{{}} }) }},
	{"adds a byte", func(up bool) meddle { return at(up, 2, func(m []byte) [][]byte { return [][]byte{append(m, 0)} }) }},
	{"joins with noise", func(up bool) meddle {
		return at(up, 2, func(m []byte) [][]byte { return [][]byte{m, bytes.Repeat([]byte{7}, 65_535)} })
	}},
	{"forges", func(up bool) meddle {
		return at(up, 2, func(m []byte) [][]byte { return [][]byte{bytes.Repeat([]byte{7}, len(m))} })
	}},
	{"replays an older one", func(up bool) meddle {
		var old []byte
		return func(u bool, i int, m []byte) [][]byte {
			if u == up && i == 1 {
				old = bytes.Clone(m)
			}
			if u == up && i == 3 {
				return [][]byte{old}
			}
			return [][]byte{m}
		}
	}},
	{"reorders", func(up bool) meddle {
		var held []byte
		return func(u bool, i int, m []byte) [][]byte {
			if u == up && i == 2 {
				held = bytes.Clone(m)
				return nil
			}
			if u == up && i == 3 {
				return [][]byte{m, held}
			}
			return [][]byte{m}
		}
	}},
	{"reflects", func(up bool) meddle {
		var other []byte
		return func(u bool, i int, m []byte) [][]byte {
			if u != up && i == 1 {
				other = bytes.Clone(m)
			}
			if u == up && i == 3 {
				return [][]byte{other}
			}
			return [][]byte{m}
		}
	}},
}

func TestMeddlingEndsTheLinkAndBothEndsSaySo(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		for _, m := range meddlings {
			for _, up := range []bool{true, false} {
				t.Run(m.name+map[bool]string{true: " up", false: " down"}[up], func(t *testing.T) {
					t.Parallel()
					var forged []string
					server := newControl(t, func(l *Link, envelope []byte) {
						if !strings.HasPrefix(string(envelope), "true ") {
							forged = append(forged, string(envelope))
						}
						_ = l.Send(envelope)
					})
					x := newMiddle(t, server, m.make(up))
					c := dial(t, x.dialer(server, transport))
					go func() {
						for i := range 8 {
							if c.Send(t.Context(), []byte("true "+strings.Repeat("message ", i))) != nil {
								return
							}
						}
					}()
					for i := 0; ; i++ {
						envelope, err := c.Receive(within(t, 10e9))
						if err != nil {
							wantCode(t, "the agent's end", err, "link_tampered")
							break
						}
						if want := "true " + strings.Repeat("message ", i); string(envelope) != want {
							t.Fatalf("the agent got %q, want %q", envelope, want)
						}
					}
					wantCode(t, "the server's end", (<-server.peers).ended(t), "link_tampered")
					if len(forged) > 0 {
						t.Fatalf("the server took %q", forged)
					}
				})
			}
		}
	})
}

func TestMeddlingWithTheHandshakeIsFoundBeforeAnythingIsSaid(t *testing.T) {
	whole := func(change func(m []byte) []byte) func(m []byte) [][]byte {
		return func(m []byte) [][]byte { return [][]byte{change(m)} }
	}
	cases := []struct {
		name   string
		up     bool
		change func([]byte) [][]byte
		agent  []string // codes; a handshake that gets no answer cannot be told from a network that swallows it
	}{
		{"alters the agent's key", true, flip(3), []string{"handshake_failed"}},
		{"alters its unused bit", true, whole(func(m []byte) []byte { m[31] ^= 0x80; return m }), []string{"handshake_failed"}},
		{"adds to the agent's message", true, whole(func(m []byte) []byte { return append(m, 1, 2, 3) }), []string{"handshake_failed"}},
		{"truncates the agent's message", true, whole(func(m []byte) []byte { return m[:20] }), []string{"websocket_blocked", "http_status"}},
		{"sends a point of low order", true, whole(func([]byte) []byte { return make([]byte, 32) }), []string{"websocket_blocked", "http_status"}},
		{"sends much", true, whole(func([]byte) []byte { return make([]byte, 60_000) }), []string{"websocket_blocked", "http_status"}},
		{"alters the server's key", false, flip(3), []string{"handshake_failed"}},
		{"alters the static key", false, flip(40), []string{"handshake_failed"}},
		{"alters the keyset", false, flip(200), []string{"handshake_failed"}},
		{"truncates the answer", false, whole(func(m []byte) []byte { return m[:len(m)-1] }), []string{"handshake_failed"}},
		{"cuts the answer short", false, whole(func(m []byte) []byte { return m[:10] }), []string{"handshake_failed"}},
		{"empties the answer", false, whole(func(m []byte) []byte { return nil }), []string{"handshake_failed"}},
	}
	eachTransport(t, func(t *testing.T, transport string) {
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				server := newControl(t, echo, func(s *Server) { s.HandshakeTimeout = 2e9 })
				x := newMiddle(t, server, at(test.up, 0, test.change))
				_, err := x.dialer(server, transport).Dial(t.Context())
				wantCode(t, "dial", err, test.agent...)
				if len(server.peers) > 0 {
					t.Fatal("the server accepted a link")
				}
				x.mu.Lock()
				defer x.mu.Unlock()
				if x.count[true] > 1 {
					t.Fatalf("the agent sent %d messages, want its first alone", x.count[true])
				}
			})
		}
	})
}

func TestAnAnswerOfAnotherHandshakeIsRefused(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		var recorded []byte
		x := newMiddle(t, server, func(up bool, n int, m []byte) [][]byte {
			if !up && n == 0 {
				recorded = bytes.Clone(m)
			}
			return [][]byte{m}
		})
		dial(t, x.dialer(server, transport))
		again := newMiddle(t, server, at(false, 0, func([]byte) [][]byte { return [][]byte{recorded} }))
		_, err := again.dialer(server, transport).Dial(t.Context())
		wantCode(t, "dial", err, "handshake_failed")
	})
}

// A recorded link played back to the server gets an answer to its handshake, and nothing after that.
func TestARecordedLinkIsNotAccepted(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		var first, second []byte
		x := newMiddle(t, server, func(up bool, n int, m []byte) [][]byte {
			if up && n == 0 {
				first = bytes.Clone(m)
			}
			if up && n == 1 {
				second = bytes.Clone(m)
			}
			return [][]byte{m}
		})
		c := dial(t, x.dialer(server, transport))
		send(t, c, "enrol me")
		receive(t, c)
		(<-server.peers).link.Close(nil)

		replay := newMiddle(t, server, func(up bool, n int, m []byte) [][]byte {
			if up && n == 0 {
				return [][]byte{first}
			}
			return [][]byte{second}
		})
		_, err := replay.dialer(server, transport).Dial(t.Context())
		wantCode(t, "the dial that was replaced by the recording", err, "handshake_failed")
		if len(server.peers) > 0 {
			t.Fatal("the server accepted a recording")
		}
	})
}

func TestARelayToAnotherServerIsFoundOut(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		mine, other := newControl(t, echo), newControl(t, echo)
		impostor := newControl(t, echo) // shows the true keyset, which is no secret, with a key of its own
		impostor.keys.Keyset = mine.keys.Keyset
		forger := newControl(t, echo) // claims the anchor, and cannot sign for it
		var k trust.Keyset
		_ = json.Unmarshal(forger.keys.Keyset.Payload, &k)
		k.Anchor = mine.anchor.Public().(ed25519.PublicKey)
		forger.keys.Keyset.Payload, _ = json.Marshal(k)
		stale := newControl(t, echo)
		stale.deployment = mine.deployment

		for name, test := range map[string]struct {
			to   *control
			seen uint64
			code string
		}{
			"another deployment's":         {other, 0, "anchor_mismatch"},
			"one with the keyset alone":    {impostor, 0, "link_key_unknown"},
			"one with a keyset of its own": {forger, 0, "keyset_invalid"},
			"one with an old keyset":       {stale, 2, "keyset_stale"},
		} {
			x := newMiddle(t, test.to, pass)
			d := x.dialer(mine, transport)
			d.SeenKeyset = test.seen
			_, err := d.Dial(t.Context())
			wantCode(t, name, err, test.code)
			if len(test.to.peers) > 0 || x.count[true] != 1 {
				t.Fatalf("%s: the agent said more than its first message", name)
			}
		}
	})
}

func TestAnAnchorThatWasVouchedForIsTrusted(t *testing.T) {
	old, next := newControl(t, echo), newControl(t, echo)
	d := next.dialer(WebSocket)
	d.Anchor, d.AlsoTrusted = old.hash(), []trust.AnchorHash{next.hash()}
	dial(t, d)
}

func TestACutIsNoGoodbye(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		if transport == Poll {
			t.Skip("a poll's connections may be cut at any time: see TestPollsSurvive…")
		}
		server := newControl(t, echo)
		x := newMiddle(t, server, pass)
		c := dial(t, x.dialer(server, transport))
		send(t, c, "x")
		receive(t, c)
		x.cut()
		wantCode(t, "the agent's end", endOf(t, c), "link_lost")
		wantCode(t, "the server's end", (<-server.peers).ended(t), "link_lost")
	})
}

func TestPollsOfTwoAgentsCannotBeCrossed(t *testing.T) {
	server := newControl(t, echo)
	x := newMiddle(t, server, pass)
	one := dial(t, server.dialer(Poll))
	send(t, one, "x")
	receive(t, one)
	victim := (<-server.peers)
	id := one.uplink.(*agentPoll).id
	other := dial(t, x.dialer(server, Poll))
	x.mu.Lock()
	x.headers = func(h http.Header) {
		if h.Get(headerLink) != "" {
			h.Set(headerLink, id)
			h.Set(headerSequence, "2")
		}
	}
	x.mu.Unlock()
	_ = other.Send(within(t, 5e9), []byte("as if from the first"))
	wantCode(t, "the link whose session was used", victim.ended(t), "link_tampered")
	if len(server.peers) > 0 {
		t.Fatal("the other link was accepted")
	}
}
