// Package trust is what an agent verifies its control plane by.
//
// A deployment has one anchor: an Ed25519 key made at first start, which may be kept off the machine, since only a new
// keyset needs it. The anchor signs keysets. A keyset has a version and lists the link keys (X25519), one a replica, that
// may answer agents. A token carries AnchorHash, so an agent that never met the deployment can check the anchor, by it
// the keyset, and by that the key that answered its handshake, before it sends the token's secret.
//
// An agent accepts only the keyset version that it holds or a higher one. A keyset may name a next anchor; the agent
// then trusts that one too: a new anchor is always vouched for by the old.
package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/token"
)

// AnchorHash is how an anchor key is named where space is short.
type AnchorHash = [token.AnchorSize]byte

// HashAnchor is the first 16 bytes of the key's SHA-256.
func HashAnchor(anchor ed25519.PublicKey) AnchorHash {
	sum := sha256.Sum256(anchor)
	return AnchorHash(sum[:token.AnchorSize])
}

// Keyset lists whom the anchor vouches for.
type Keyset struct {
	Deployment string            `json:"deployment"` // id of the deployment: "dep_…"
	Version    uint64            `json:"version"`
	IssuedAt   time.Time         `json:"issuedAt"`
	Anchor     ed25519.PublicKey `json:"anchor"`
	NextAnchor ed25519.PublicKey `json:"nextAnchor,omitempty"`
	LinkKeys   [][]byte          `json:"linkKeys"` // X25519 public keys, 32 bytes each

	// Replicas say which of the link keys is whose, and by what key each speaks to the others. Agents have no use for it.
	// Empty in a deployment that never had a second one.
	Replicas []Replica `json:"replicas,omitempty"`
}

// Replica is one process of the control plane that the anchor vouches for.
type Replica struct {
	Name    string            `json:"name"`
	LinkKey []byte            `json:"linkKey"` // X25519, one of LinkKeys
	PeerKey ed25519.PublicKey `json:"peerKey"` // answers for it on connections between replicas and on the bus
}

// Replica by its name.
func (k Keyset) Replica(name string) (Replica, bool) {
	return k.replica(func(r Replica) bool { return r.Name == name })
}

// Peer is the replica that this key answers for.
func (k Keyset) Peer(key ed25519.PublicKey) (Replica, bool) {
	return k.replica(func(r Replica) bool { return len(key) == ed25519.PublicKeySize && key.Equal(r.PeerKey) })
}

func (k Keyset) replica(is func(Replica) bool) (Replica, bool) {
	if i := slices.IndexFunc(k.Replicas, is); i >= 0 {
		return k.Replicas[i], true
	}
	return Replica{}, false
}

// Signed is a keyset as it travels: exactly the bytes that were signed.
type Signed struct {
	Payload   []byte `json:"payload"`   // the keyset as JSON
	Signature []byte `json:"signature"` // Ed25519 over context and payload
}

// signingContext keeps a signature made here from meaning anything elsewhere.
const signingContext = "loopback keyset 1\x00"

// Sign makes the keyset travel-ready.
func (k Keyset) Sign(anchor ed25519.PrivateKey) (Signed, error) {
	k.Anchor = anchor.Public().(ed25519.PublicKey)
	payload, err := json.Marshal(k)
	if err != nil {
		return Signed{}, err
	}
	return Signed{payload, ed25519.Sign(anchor, append([]byte(signingContext), payload...))}, nil
}

// Errors of verification. Each means that what answered is not the control plane that the agent was told to trust.
var (
	ErrAnchor = fault.New(fault.Unauthenticated, "anchor_mismatch", "this is not the control plane that the token was minted on").
			WithHint("check the endpoint; if it is right, something between this host and the control plane answers in its place")
	ErrKeyset = fault.New(fault.Unauthenticated, "keyset_invalid", "the control plane's keyset is not validly signed")
	ErrStale  = fault.New(fault.Unauthenticated, "keyset_stale", "the control plane offered an older keyset than this host has seen").
			WithHint("a replica is out of date, or somebody replays an old answer")
	ErrLinkKey = fault.New(fault.Unauthenticated, "link_key_unknown", "the key that answered is not in the control plane's keyset")
)

// Verify checks a keyset against the anchor hash that the holder trusts and the version it has seen (0: none).
func (s Signed) Verify(trusted AnchorHash, seen uint64) (Keyset, error) {
	var k Keyset
	if len(s.Payload) > 64<<10 {
		return Keyset{}, ErrKeyset
	}
	if err := json.Unmarshal(s.Payload, &k); err != nil || len(k.Anchor) != ed25519.PublicKeySize {
		return Keyset{}, ErrKeyset
	}
	if HashAnchor(k.Anchor) != trusted {
		return Keyset{}, ErrAnchor
	}
	if !s.genuine(k.Anchor) {
		return Keyset{}, ErrKeyset
	}
	if k.NextAnchor != nil && len(k.NextAnchor) != ed25519.PublicKeySize {
		return Keyset{}, ErrKeyset
	}
	if k.Version < seen {
		return Keyset{}, ErrStale
	}
	return k, nil
}

// proved is a keyset whose signature holds.
type proved struct {
	anchor ed25519.PublicKey
	Signed
}

// lastProved is remembered because an agent is shown the same keyset whenever it links, for years: comparing bytes costs
// nothing beside verifying a signature.
var lastProved atomic.Pointer[proved]

// genuine tells whether the anchor signed it.
func (s Signed) genuine(anchor ed25519.PublicKey) bool {
	if p := lastProved.Load(); p != nil && bytes.Equal(p.anchor, anchor) && bytes.Equal(p.Payload, s.Payload) && bytes.Equal(p.Signature, s.Signature) {
		return true
	}
	if !ed25519.Verify(anchor, append([]byte(signingContext), s.Payload...), s.Signature) {
		return false
	}
	lastProved.Store(&proved{bytes.Clone(anchor), Signed{Payload: bytes.Clone(s.Payload), Signature: bytes.Clone(s.Signature)}})
	return true
}

// Vouches tells whether the keyset lists this link key.
func (k Keyset) Vouches(linkKey []byte) bool {
	return slices.ContainsFunc(k.LinkKeys, func(l []byte) bool { return string(l) == string(linkKey) })
}
