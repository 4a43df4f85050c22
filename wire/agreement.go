package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/subtle"
	"encoding/json"
	"io"

	"github.com/flynn/noise"

	"github.com/loopbackd/loopback/fault"
)

// agreement is X25519 for one handshake. The noise library passes private keys as bytes, and crypto/ecdh computes the
// public key anew whenever it gets such bytes: two scalar multiplications where one is needed. Keeping the keys of the
// handshake as they were made saves two of five, on either end.
type agreement struct {
	static    *ecdh.PrivateKey // nil on an agent
	ephemeral *ecdh.PrivateKey // nil before it is made
}

var _ noise.DHFunc = (*agreement)(nil)

// GenerateKeypair makes the handshake's ephemeral key.
func (a *agreement) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	seed := make([]byte, 32)
	if _, err := io.ReadFull(random, seed); err != nil {
		return noise.DHKey{}, err
	}
	key, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		return noise.DHKey{}, err
	}
	a.ephemeral = key
	return noise.DHKey{Private: seed, Public: key.PublicKey().Bytes()}, nil
}

// DH agrees with a peer's public key; one of low order is refused.
func (a *agreement) DH(private, public []byte) ([]byte, error) {
	peer, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	for _, known := range []*ecdh.PrivateKey{a.ephemeral, a.static} {
		if known != nil && subtle.ConstantTimeCompare(known.Bytes(), private) == 1 {
			return known.ECDH(peer)
		}
	}
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return key.ECDH(peer)
}

// DHLen implements noise.DHFunc.
func (*agreement) DHLen() int { return 32 }

// DHName implements noise.DHFunc.
func (*agreement) DHName() string { return "25519" }

// suite is what a handshake computes with.
func suite(static *ecdh.PrivateKey) noise.CipherSuite {
	return noise.NewCipherSuite(&agreement{static: static}, noise.CipherAESGCM, noise.HashSHA256)
}

// answering is a control plane's part of all handshakes that it answers with the same keys.
type answering struct {
	keys   ServerKeys
	static *ecdh.PrivateKey
	keyset []byte // as it is sent
}

func prepare(keys ServerKeys) (*answering, error) {
	static, err := ecdh.X25519().NewPrivateKey(keys.Private)
	if err != nil {
		return nil, fault.New(fault.Internal, "link_key_invalid", "the link key cannot be used").WithCause(err)
	}
	keyset, err := json.Marshal(keys.Keyset)
	if err != nil {
		return nil, err
	}
	if len(keyset) > maxKeysetSize {
		return nil, fault.New(fault.Internal, "keyset_too_large", "the keyset takes %d bytes, a handshake carries %d", len(keyset), maxKeysetSize)
	}
	return &answering{keys, static, keyset}, nil
}

// with tells whether it answers with these keys.
func (a *answering) with(keys ServerKeys) bool {
	return bytes.Equal(a.keys.Private, keys.Private) && bytes.Equal(a.keys.Public, keys.Public) &&
		bytes.Equal(a.keys.Keyset.Payload, keys.Keyset.Payload) && bytes.Equal(a.keys.Keyset.Signature, keys.Keyset.Signature)
}
