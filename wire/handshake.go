package wire

import (
	"encoding/json"

	"github.com/flynn/noise"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

var prologue = []byte("loopback link 1")

// Sizes of the handshake's messages.
const (
	firstSize     = 32   // the agent's ephemeral key
	maxFirst      = 1024 // room for what later versions add
	maxKeysetSize = maxMessage - 32 - (32 + tagSize) - tagSize
)

// ErrHandshake is what an agent reports when the handshake's answer does not open.
var ErrHandshake = fault.New(fault.Unauthenticated, "handshake_failed", "the answer to the link's handshake is not genuine").
	WithHint("something between this host and the control plane changes traffic; look for proxies that inspect it")

// ServerKeys is what a control plane answers handshakes with.
type ServerKeys struct {
	Private []byte       // X25519
	Public  []byte       // listed in the keyset
	Keyset  trust.Signed // signed by the anchor
}

// session is what a handshake leaves behind: two directions and the hash that proofs are bound to. Everything else of
// the handshake is dropped.
type session struct {
	out, in sealing
	hash    [32]byte
}

// respond answers the first message of a handshake.
func (a *answering) respond(first []byte, every uint64) (second []byte, s *session, err error) {
	if len(first) < firstSize || len(first) > maxFirst {
		return nil, nil, ErrTampered
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite(a.static), Pattern: noise.HandshakeNX, Prologue: prologue,
		StaticKeypair: noise.DHKey{Private: a.keys.Private, Public: a.keys.Public},
	})
	if err != nil {
		return nil, nil, err
	}
	if _, _, _, err = state.ReadMessage(nil, first); err != nil {
		return nil, nil, ErrTampered.WithCause(err)
	}
	second, fromAgent, toAgent, err := state.WriteMessage(nil, a.keyset)
	if err != nil {
		// A low-order point of the stranger's, which X25519 refuses.
		return nil, nil, ErrTampered.WithCause(err)
	}
	s = &session{out: sealing{toAgent, every}, in: sealing{fromAgent, every}}
	copy(s.hash[:], state.ChannelBinding())
	return second, s, nil
}

// initiation is an agent's handshake under way.
type initiation struct{ state *noise.HandshakeState }

func initiate() (initiation, []byte, error) {
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite(nil), Pattern: noise.HandshakeNX, Prologue: prologue, Initiator: true,
	})
	if err != nil {
		return initiation{}, nil, err
	}
	first, _, _, err := state.WriteMessage(nil, nil)
	return initiation{state}, first, err
}

// finish reads the control plane's answer and decides whether it is the one to trust: the keyset's anchor is one of
// anchors, its signature holds, it is not older than seen, and it vouches for the very key that this handshake proved.
func (i initiation) finish(second []byte, anchors []trust.AnchorHash, seen, every uint64) (*session, trust.Signed, trust.Keyset, error) {
	var signed trust.Signed
	payload, toServer, fromServer, err := i.state.ReadMessage(nil, second)
	if err != nil {
		return nil, signed, trust.Keyset{}, ErrHandshake.WithCause(err)
	}
	if err := json.Unmarshal(payload, &signed); err != nil {
		return nil, signed, trust.Keyset{}, trust.ErrKeyset
	}
	keyset, err := verifyKeyset(signed, anchors, seen)
	if err != nil {
		return nil, signed, trust.Keyset{}, err
	}
	if !keyset.Vouches(i.state.PeerStatic()) {
		return nil, signed, trust.Keyset{}, trust.ErrLinkKey
	}
	s := &session{out: sealing{toServer, every}, in: sealing{fromServer, every}}
	copy(s.hash[:], i.state.ChannelBinding())
	return s, signed, keyset, nil
}

func verifyKeyset(signed trust.Signed, anchors []trust.AnchorHash, seen uint64) (keyset trust.Keyset, err error) {
	err = trust.ErrAnchor
	for _, anchor := range anchors {
		keyset, err = signed.Verify(anchor, seen)
		if err == nil || !isFault(err, trust.ErrAnchor) {
			return keyset, err
		}
	}
	return keyset, err
}

func isFault(err error, f *fault.Error) bool { return err != nil && fault.Of(err).Code == f.Code }
