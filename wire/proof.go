package wire

import (
	"crypto/ed25519"
	"encoding/binary"
	"strings"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// Roles that a proof can be for, so that one made to enrol says nothing to a hello.
const (
	RoleEnrol = "enrol" // host id is empty
	RoleHello = "hello"
)

// ErrProof refuses a proof of identity.
var ErrProof = fault.New(fault.Unauthenticated, "proof_invalid", "the proof of the host's identity does not hold on this link")

// SignProof proves possession of a host's identity key on the link with this handshake hash, and on no other.
func SignProof(key ed25519.PrivateKey, role, hostID string, hash []byte) *loopbackv1.Proof {
	return &loopbackv1.Proof{
		PublicKey: key.Public().(ed25519.PublicKey),
		Signature: ed25519.Sign(key, proofMessage(role, hostID, hash)),
	}
}

// VerifyProof checks a proof for the link with this handshake hash. It says only that the sender holds the key: whose
// key that is, the caller knows.
func VerifyProof(p *loopbackv1.Proof, role, hostID string, hash []byte) error {
	if len(p.GetPublicKey()) != ed25519.PublicKeySize || len(p.GetSignature()) != ed25519.SignatureSize ||
		len(hash) != 32 || strings.ContainsRune(role, 0) || strings.ContainsRune(hostID, 0) ||
		(role != RoleEnrol && role != RoleHello) || (role == RoleEnrol) != (hostID == "") {
		return ErrProof
	}
	if !ed25519.Verify(p.PublicKey, proofMessage(role, hostID, hash), p.Signature) {
		return ErrProof
	}
	return nil
}

func proofMessage(role, hostID string, hash []byte) []byte {
	return append([]byte("loopback identity 1\x00"+role+"\x00"+hostID+"\x00"), hash...)
}

// NonceSize of a challenge, in bytes.
const NonceSize = 32

// Presence is what the answer to a challenge proves: that the holder of the host's key is there now, on the link with
// this handshake hash. Boot and connection are what the hello of that link claimed.
type Presence struct {
	HostID     string
	BootID     string
	Connection uint64
	Nonce      []byte // made for this challenge and never used again
	Hash       []byte // of the handshake
}

// Sign answers a challenge.
func (p Presence) Sign(key ed25519.PrivateKey) []byte { return ed25519.Sign(key, p.message()) }

// Verify tells whether an answer holds.
func (p Presence) Verify(key ed25519.PublicKey, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && len(signature) == ed25519.SignatureSize && len(p.Nonce) == NonceSize &&
		len(p.Hash) == 32 && !strings.ContainsRune(p.HostID, 0) && !strings.ContainsRune(p.BootID, 0) &&
		ed25519.Verify(key, p.message(), signature)
}

func (p Presence) message() []byte {
	m := append([]byte("loopback challenge 1\x00"+p.HostID+"\x00"+p.BootID+"\x00"), binary.BigEndian.AppendUint64(nil, p.Connection)...)
	return append(append(m, p.Nonce...), p.Hash...)
}
