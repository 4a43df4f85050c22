// Package wire is the sealed link between an agent and the control plane: what carries envelopes, and nothing about
// what they mean.
//
// An agent dials out over HTTPS, by WebSocket or, where that is blocked, by long polling. The TLS around it only opens
// the port. Inside, both ends run one Noise handshake (NX, X25519, AES-256-GCM, SHA-256, prologue "loopback link 1"):
//
//	agent                                        control plane
//	  │  e                                            │
//	  ├──────────────────────────────────────────────▶│  nobody has said who they are
//	  │  e, ee, s, es, {keyset signed by the anchor}  │
//	  │◀──────────────────────────────────────────────┤  nothing else is ever answered unsealed
//	  │  verify anchor, signature, version, link key  │
//	  │  {sealed fragments}                           │
//	  ├──────────────────────────────────────────────▶│  Accept: the first sealed message proves a live peer
//	  │◀─────────────────────────────────────────────▶│
//
// The agent sends nothing before it has verified the keyset (package trust) and found in it the key that answered. It
// then proves its own identity by signing the handshake's hash (SignProof), so that a proof shown on one link is worth
// nothing on any other: a proxy that terminates TLS can carry a link or cut it, but neither read nor forge, and a relay
// to another server is found out before the agent has said a word.
//
// # Messages
//
// A Noise message is at most 65,535 bytes. Its plaintext is one flag byte and a fragment; fragments up to the one marked
// last make an envelope of at most MaxEnvelope bytes. Nonces count messages in each direction and never travel, so a
// message that is changed, left out, repeated, moved or sent back where it came from does not open. The cipher keys move
// on every 2³² messages.
//
// A WebSocket carries one Noise message in each binary message. A poll's body carries any number of them, each behind its
// length; see the comment on ServePoll.
//
// # Endings
//
// A link ends once, for one reason, and each end reports it as a *fault.Error:
//
//	link_tampered    a message did not open or was not where it belongs: somebody is on the way, or a peer is broken
//	link_malformed   the authentic peer broke the protocol
//	envelope_too_large  the authentic peer sent more than an envelope may hold
//	link_idle        nothing came within the idle timeout
//	link_slow        the peer did not take what was sent to it
//	link_lost        the connection ended without the peer's word for it: a network, a proxy, or a power cut
//	link_closed      the peer closed without a reason, by its sealed word
//	anything else    the reason that the peer gave to Close, by its sealed word
//
// The end that detects a fault says so to the other by a last sealed message, where there is still a way.
//
// # Costs
//
// A server spends on an idle WebSocket link one goroutine, parked in a read with a shallow stack, and TLS's state: 26 KiB
// resident all in, as BenchmarkDensity measures beside its rival. Nothing else runs for a link; handshakes and handlers
// run on a few shared goroutines whose deep stacks are reused.
package wire
