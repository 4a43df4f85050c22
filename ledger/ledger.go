// Package ledger is the audit log as evidence: a Merkle tree over its entries, and what proves things with it.
//
// The leaves are the entries' canonical JSON (Encode) in the order of their positions; hashing is that of RFC 6962 and
// RFC 9162. The root over the first n leaves, signed together with n, is a Checkpoint. From a checkpoint follow two kinds of
// proofs, each log n hashes long: that an entry is in the tree (Inclusion), and that a later tree only added to an earlier
// one (Consistency).
//
// What it shows and what it does not: whoever remembers one checkpoint, and nothing else, can tell later whether any entry
// before it was changed, dropped, moved, doubled or added, even by the owner of the database and of the signing key: they
// can sign another tree, but no other tree is consistent with the checkpoint. An entry that nobody signed for yet, in the
// seconds before the next checkpoint, can be changed unseen; and nothing shows an act that was never written down.
//
// Hashes are kept in tiles of 256 (the layout of C2SP tlog-tiles), so that the body of an entry can be deleted when its
// time is over while every proof still holds.
package ledger

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
)

// Hash is that of a leaf or a node.
type Hash [sha256.Size]byte

// Empty is the root of a tree without leaves.
var Empty = Hash(sha256.Sum256(nil))

// LeafHash is the hash of a leaf: SHA-256(0x00 ‖ data).
func LeafHash(data []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	var out Hash
	h.Sum(out[:0])
	return out
}

// NodeHash is the hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// Range is the tree over the leaves that were added so far, as the roots of its perfect subtrees: log n hashes, from
// which it can be continued. The zero value is empty.
type Range struct {
	size    int64
	peaks   []Hash // of the subtrees, largest first
	scratch []byte
}

// Size is how many leaves were added.
func (r *Range) Size() int64 { return r.size }

// Add appends a leaf and returns its hash.
func (r *Range) Add(data []byte) Hash {
	r.scratch = append(append(r.scratch[:0], 0), data...)
	h := Hash(sha256.Sum256(r.scratch))
	if cap(r.scratch) > 1<<20 {
		r.scratch = nil
	}
	r.AddHash(h)
	return h
}

// AddHash appends a leaf of which only the hash is known.
func (r *Range) AddHash(h Hash) {
	for n := r.size; n&1 == 1; n >>= 1 {
		last := len(r.peaks) - 1
		h = NodeHash(r.peaks[last], h)
		r.peaks = r.peaks[:last]
	}
	r.peaks = append(r.peaks, h)
	r.size++
}

// Root is that of the tree so far.
func (r *Range) Root() Hash {
	if len(r.peaks) == 0 {
		return Empty
	}
	h := r.peaks[len(r.peaks)-1]
	for i := len(r.peaks) - 2; i >= 0; i-- {
		h = NodeHash(r.peaks[i], h)
	}
	return h
}

// Clone is a Range of its own over the same leaves.
func (r *Range) Clone() *Range { return &Range{size: r.size, peaks: append([]Hash(nil), r.peaks...)} }

// Tree reads the hashes of a stored tree: that of the perfect subtree over the leaves index<<level to (index+1)<<level.
type Tree func(level int, index int64) (Hash, error)

// Root is that over the first size leaves.
func (t Tree) Root(size int64) (Hash, error) {
	if size == 0 {
		return Empty, nil
	}
	return t.over(0, size)
}

// Resume is the Range over the first size leaves.
func (t Tree) Resume(size int64) (*Range, error) {
	r := &Range{size: size}
	var from int64
	for level := 62; level >= 0; level-- {
		if size&(1<<level) == 0 {
			continue
		}
		h, err := t(level, from>>level)
		if err != nil {
			return nil, err
		}
		r.peaks = append(r.peaks, h)
		from += 1 << level
	}
	return r, nil
}

// over is the root of the leaves from lo to hi, lo being where a subtree of that size may begin.
func (t Tree) over(lo, hi int64) (Hash, error) {
	if n := hi - lo; n&(n-1) == 0 {
		level := bits.TrailingZeros64(uint64(n))
		return t(level, lo>>level)
	}
	k := split(hi - lo)
	left, err := t.over(lo, lo+k)
	if err != nil {
		return Hash{}, err
	}
	right, err := t.over(lo+k, hi)
	return NodeHash(left, right), err
}

// split is the largest power of two below n, which is more than 1.
func split(n int64) int64 { return 1 << (bits.Len64(uint64(n-1)) - 1) }

// Inclusion is the proof that a leaf is in the tree over the first size leaves.
func (t Tree) Inclusion(index, size int64) ([]Hash, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("ledger: leaf %d is not in a tree of %d", index, size)
	}
	var proof []Hash
	lo, hi := int64(0), size
	for hi-lo > 1 {
		k := split(hi - lo)
		a, b := lo+k, hi // the half beside
		if index >= lo+k {
			a, b = lo, lo+k
		}
		h, err := t.over(a, b)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
		if index < lo+k {
			hi = lo + k
		} else {
			lo += k
		}
	}
	for i, j := 0, len(proof)-1; i < j; i, j = i+1, j-1 {
		proof[i], proof[j] = proof[j], proof[i]
	}
	return proof, nil
}

// Consistency is the proof that the tree over the first to leaves adds to that over the first from.
func (t Tree) Consistency(from, to int64) ([]Hash, error) {
	if from < 0 || from > to {
		return nil, fmt.Errorf("ledger: a tree of %d does not grow into one of %d", from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	return t.consistency(from, 0, to, true)
}

func (t Tree) consistency(from, lo, hi int64, whole bool) ([]Hash, error) {
	if from == hi {
		if whole {
			return nil, nil
		}
		h, err := t.over(lo, hi)
		return []Hash{h}, err
	}
	k := split(hi - lo)
	var proof []Hash
	var beside Hash
	var err error
	if from <= lo+k {
		if proof, err = t.consistency(from, lo, lo+k, whole); err == nil {
			beside, err = t.over(lo+k, hi)
		}
	} else {
		if proof, err = t.consistency(from, lo+k, hi, false); err == nil {
			beside, err = t.over(lo, lo+k)
		}
	}
	return append(proof, beside), err
}

// Includes tells whether a proof shows that the leaf of this hash is at index in the tree of this size and root
// (RFC 9162, 2.1.3.2).
func Includes(leaf Hash, index, size int64, root Hash, proof []Hash) bool {
	if index < 0 || index >= size {
		return false
	}
	f, s, r := index, size-1, leaf
	for _, p := range proof {
		if s == 0 {
			return false
		}
		if f&1 == 1 || f == s {
			r = NodeHash(p, r)
			for f&1 == 0 && f != 0 {
				f, s = f>>1, s>>1
			}
		} else {
			r = NodeHash(r, p)
		}
		f, s = f>>1, s>>1
	}
	return s == 0 && r == root
}

// Extends tells whether a proof shows that the tree of size to and root b begins with that of size from and root a
// (RFC 9162, 2.1.4.2).
func Extends(from int64, a Hash, to int64, b Hash, proof []Hash) bool {
	switch {
	case from < 0 || from > to:
		return false
	case from == 0:
		return a == Empty && len(proof) == 0
	case from == to:
		return a == b && len(proof) == 0
	}
	if from&(from-1) == 0 {
		proof = append([]Hash{a}, proof...)
	}
	if len(proof) == 0 {
		return false
	}
	f, s := from-1, to-1
	for f&1 == 1 {
		f, s = f>>1, s>>1
	}
	fr, sr := proof[0], proof[0]
	for _, c := range proof[1:] {
		if s == 0 {
			return false
		}
		if f&1 == 1 || f == s {
			fr, sr = NodeHash(c, fr), NodeHash(c, sr)
			for f&1 == 0 && f != 0 {
				f, s = f>>1, s>>1
			}
		} else {
			sr = NodeHash(sr, c)
		}
		f, s = f>>1, s>>1
	}
	return s == 0 && fr == a && sr == b
}
