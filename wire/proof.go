package wire

import (
	"crypto/ed25519"
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
