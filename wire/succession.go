package wire

import (
	"crypto/ed25519"
	"encoding/binary"
	"slices"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
)

// MaxSuccessions is how many keys back a host can show where its key comes from.
const MaxSuccessions = 16

// SignSuccession is one identity key's word that another follows it, as the key of this generation.
func SignSuccession(key ed25519.PrivateKey, hostID string, next ed25519.PublicKey, generation int64) *loopbackv1.Succession {
	return &loopbackv1.Succession{
		PublicKey: key.Public().(ed25519.PublicKey), NextKey: next, Generation: generation,
		Signature: ed25519.Sign(key, successionMessage(hostID, next, generation)),
	}
}

// FollowSuccessions follows a host's keys from one that is known to the one that it shows now, and returns all that came
// after the known one, with the generation of the last. Not ok where they do not lead there, step by step.
func FollowSuccessions(hostID string, known, shown ed25519.PublicKey, list []*loopbackv1.Succession) (after []ed25519.PublicKey, generation int64, ok bool) {
	if len(list) > MaxSuccessions {
		return nil, 0, false
	}
	at := known
	for _, s := range list {
		if string(s.GetPublicKey()) != string(at) {
			if len(after) > 0 {
				return nil, 0, false
			}
			continue // of a time before the key that is known
		}
		if len(at) != ed25519.PublicKeySize || len(s.GetNextKey()) != ed25519.PublicKeySize || len(s.GetSignature()) != ed25519.SignatureSize ||
			s.GetGeneration() <= generation || !ed25519.Verify(at, successionMessage(hostID, s.GetNextKey(), s.GetGeneration()), s.GetSignature()) {
			return nil, 0, false
		}
		at, generation = slices.Clone(s.GetNextKey()), s.GetGeneration()
		after = append(after, at)
	}
	return after, generation, len(after) > 0 && string(at) == string(shown)
}

func successionMessage(hostID string, next ed25519.PublicKey, generation int64) []byte {
	m := append([]byte("loopback successor 1\x00"+hostID+"\x00"), binary.BigEndian.AppendUint64(nil, uint64(generation))...)
	return append(m, next...)
}
