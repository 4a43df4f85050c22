package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
)

// Box keeps secrets of others that have to be used again, such as a webhook's: sealed under a key that is not in the database
// (AES-256-GCM).
type Box struct{ aead cipher.AEAD }

// NewBox makes one. The key is 32 bytes long.
func NewBox(key []byte) (Box, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return Box{}, err
	}
	aead, err := cipher.NewGCM(block)
	return Box{aead}, err
}

// Seal encrypts a secret for what has this id; it opens under no other.
func (b Box) Seal(id, secret string) []byte {
	nonce := make([]byte, b.aead.NonceSize())
	rand.Read(nonce)
	return b.aead.Seal(nonce, nonce, []byte(secret), []byte(id))
}

// Open is the secret; not ok where it was sealed with another key, or for something else.
func (b Box) Open(id string, sealed []byte) (secret string, ok bool) {
	n := b.aead.NonceSize()
	if len(sealed) < n {
		return "", false
	}
	text, err := b.aead.Open(nil, sealed[:n], sealed[n:], []byte(id))
	return string(text), err == nil
}
