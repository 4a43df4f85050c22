package link

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/wire"
)

// untilRotation is the time until the key is to be replaced: at once where a next key is stored that is not in use yet,
// else when the key is old enough, less up to a tenth so that hosts enrolled together do not rotate together.
func (s *session) untilRotation() time.Duration {
	if s.identity.Next != nil {
		return 0
	}
	every := s.options.Config.KeyRotation
	every -= time.Duration(s.early * float64(every) / 10)
	return max(0, time.Until(s.identity.KeySince.Add(every)))
}

// offer stores a next key, where there is none yet, and offers it.
func (s *session) offer(ctx context.Context) error {
	if s.standing != Managed || s.offered || s.untilRotation() > 0 {
		return nil
	}
	if s.identity.Next == nil {
		_, next, err := ed25519.GenerateKey(nil)
		if err != nil {
			return fmt.Errorf("make the next key: %w", err)
		}
		identity := s.identity
		identity.Next = next
		if err := s.options.Store.PutIdentity(identity); err != nil {
			s.forgetful(err) // a key that is not stored is not offered; the current one serves on
			return nil
		}
		s.identity = identity
	}
	return s.offerNext(ctx)
}

// offerNext offers the next key that is stored.
func (s *session) offerNext(ctx context.Context) error {
	s.offered = true
	generation := s.identity.Generation + 1
	s.log.Info("offering the next identity key", "generation", generation)
	err := s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_KeyOffer{KeyOffer: &pb.KeyOffer{
		PublicKey:  s.identity.Next.Public().(ed25519.PublicKey),
		Generation: generation,
		Signature:  ed25519.Sign(s.identity.Next, nextKeyMessage(s.identity.HostID, generation)),
	}}})
	return err
}

// nextKeyMessage is what the next key signs, so that nobody can offer a key that they do not hold.
func nextKeyMessage(hostID string, generation int64) []byte {
	m := append([]byte("loopback next key 1\x00"+hostID), 0)
	return binary.BigEndian.AppendUint64(m, uint64(generation))
}

// succession is the current key's word that the next one follows it.
func succession(i state.Identity, generation int64) state.Succession {
	s := wire.SignSuccession(i.Key, i.HostID, i.Next.Public().(ed25519.PublicKey), generation)
	return state.Succession{Key: s.PublicKey, Next: s.NextKey, Generation: s.Generation, Signature: s.Signature}
}

// accepted ends the link soon, so that the accepted key comes into use; the moment is random, since the control plane
// may have answered many hosts together.
func (s *session) accepted(k *pb.KeyAccepted) {
	next := s.identity.Next
	if s.next || next == nil || !next.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(k.PublicKey)) {
		return // a late answer about another key
	}
	s.rekey = time.After(time.Duration(rand.Float64() * float64(time.Second)))
}

// counted takes in the generation that the control plane counts for the key which said hello. A next key that was
// answered is the current one from here on.
func (s *session) counted(generation int64) {
	identity := s.identity
	switch {
	case s.next:
		if generation <= identity.Generation {
			generation = identity.Generation + 1
		}
		identity.Earlier = append(slices.Clone(identity.Earlier), succession(identity, generation))
		identity.Earlier = identity.Earlier[max(0, len(identity.Earlier)-wire.MaxSuccessions):]
		identity = identity.Promoted(generation, time.Now())
	case generation > 0 && generation != identity.Generation:
		identity.Generation = generation
	default:
		return
	}
	if err := s.options.Store.PutIdentity(identity); err != nil {
		s.forgetful(err) // after a restart the next key, still stored, is tried first
	}
	if s.next {
		s.log.Info("the identity key was replaced", "generation", generation)
	}
	s.identity, s.next = identity, false
	s.update(func(st *Status) { st.Key = generation })
}
