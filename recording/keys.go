package recording

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/loopbackd/loopback/fault"
)

// SecretSize of a session's secret, in bytes.
const SecretSize = 32

// depth of the key tree: 16 million chunks, which is more than five years of an idle terminal.
const depth = 24

// maxChunks of one recording.
const maxChunks = 1 << depth

// SaltSize of a chunk's salt, in bytes.
const SaltSize = 16

// NewSecret makes a session's secret.
func NewSecret() [SecretSize]byte {
	var s [SecretSize]byte
	rand.Read(s[:])
	return s
}

// Keyring holds the keys of a recording's chunks, but for those that were shredded: the roots of the subtrees of the key
// tree that have none. It is small (24 roots for each chunk that was shredded apart from others), and what was taken out
// cannot be computed from what is left.
//
// A Keyring is not safe for concurrent use with Shred.
type Keyring struct{ roots []root }

// root of the subtree over the chunks number<<(depth-level) to (number+1)<<(depth-level).
type root struct {
	level  int
	number uint32
	seed   [SecretSize]byte
}

func (r root) first() int64 { return int64(r.number) << (depth - r.level) }
func (r root) end() int64   { return int64(r.number+1) << (depth - r.level) }

// NewKeyring holds the key of every chunk.
func NewKeyring(secret [SecretSize]byte) *Keyring { return &Keyring{roots: []root{{seed: secret}}} }

func (r root) child(b uint32) root {
	m := hmac.New(sha256.New, r.seed[:])
	m.Write([]byte{'n', byte(b)})
	c := root{level: r.level + 1, number: r.number<<1 | b}
	m.Sum(c.seed[:0])
	return c
}

// toward is the child in whose subtree the chunk is, and the one beside it.
func (r root) toward(chunk int64) (in, beside root) {
	b := uint32(chunk>>(depth-r.level-1)) & 1
	return r.child(b), r.child(b ^ 1)
}

func (k *Keyring) find(chunk int64) (int, bool) {
	i := slices.IndexFunc(k.roots, func(r root) bool { return r.first() <= chunk && chunk < r.end() })
	return i, i >= 0
}

// key is a chunk's cipher and salt.
func (k *Keyring) key(chunk int64) (cipher.AEAD, [SaltSize]byte, error) {
	var salt [SaltSize]byte
	i, ok := k.find(chunk)
	if !ok {
		return nil, salt, ErrShredded
	}
	r := k.roots[i]
	for r.level < depth {
		r, _ = r.toward(chunk)
	}
	use := func(what string) []byte {
		m := hmac.New(sha256.New, r.seed[:])
		m.Write([]byte(what))
		return m.Sum(nil)
	}
	copy(salt[:], use("salt"))
	block, err := aes.NewCipher(use("key"))
	if err != nil {
		return nil, salt, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, salt, err
}

// Holds tells whether a chunk's key is there.
func (k *Keyring) Holds(chunk int64) bool { _, ok := k.find(chunk); return ok }

// Shred takes a chunk's key out. What was stored of the keyring before has to be stored anew, and the old copy destroyed.
func (k *Keyring) Shred(chunk int64) {
	i, ok := k.find(chunk)
	if !ok || chunk < 0 || chunk >= maxChunks {
		return
	}
	r := k.roots[i]
	rest := slices.Delete(slices.Clone(k.roots), i, i+1)
	for r.level < depth {
		in, beside := r.toward(chunk)
		rest = append(rest, beside)
		r = in
	}
	for i := range k.roots {
		clear(k.roots[i].seed[:])
	}
	slices.SortFunc(rest, func(a, b root) int { return int(a.first() - b.first()) })
	k.roots = rest
}

const rootSize = 1 + 4 + SecretSize

// Marshal is the keyring as bytes: a secret as long as any recording of it is.
func (k *Keyring) Marshal() []byte {
	b := make([]byte, 0, len(k.roots)*rootSize)
	for _, r := range k.roots {
		b = append(b, byte(r.level))
		b = binary.BigEndian.AppendUint32(b, r.number)
		b = append(b, r.seed[:]...)
	}
	return b
}

// ParseKeyring reads what Marshal wrote.
func ParseKeyring(b []byte) (*Keyring, error) {
	wrong := fault.New(fault.Internal, "recording_keys", "the keys of a recording are damaged")
	if len(b)%rootSize != 0 {
		return nil, wrong.WithCause(fmt.Errorf("%d bytes", len(b)))
	}
	k := &Keyring{}
	var end int64
	for ; len(b) > 0; b = b[rootSize:] {
		r := root{level: int(b[0]), number: binary.BigEndian.Uint32(b[1:])}
		copy(r.seed[:], b[5:])
		if r.level > depth || int64(r.number) >= 1<<r.level || r.first() < end {
			return nil, wrong
		}
		end = r.end()
		k.roots = append(k.roots, r)
	}
	return k, nil
}
