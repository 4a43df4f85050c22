package stream

import (
	"math/bits"
	"sync"
)

// ring holds the bytes from base to end of a channel. It grows as it fills, and holds no memory while it is empty: most channels of most
// sessions are empty most of the time.
type ring struct {
	base uint64
	data []byte // circular; its length is the capacity
	head int    // of base in data
	size int
}

const ringFirst = 4 << 10

// rings are what others have given back, by capacity: ringFirst, twice that, and so on up to MaxWindow.
var rings [13]sync.Pool

func takeRing(capacity int) []byte {
	if b, ok := rings[bits.TrailingZeros(uint(capacity/ringFirst))].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, capacity)
}

func giveRing(b []byte) {
	if len(b) > 0 {
		rings[bits.TrailingZeros(uint(len(b)/ringFirst))].Put(&b)
	}
}

func (r *ring) end() uint64 { return r.base + uint64(r.size) }

// append adds p; the caller has seen to the bound.
func (r *ring) append(p []byte) {
	if need := r.size + len(p); need > len(r.data) {
		capacity := max(len(r.data), ringFirst)
		for capacity < need {
			capacity *= 2
		}
		grown := takeRing(capacity)
		r.copyTo(grown[:r.size], r.base)
		giveRing(r.data)
		r.data, r.head = grown, 0
	}
	at := (r.head + r.size) % len(r.data)
	n := copy(r.data[at:], p)
	copy(r.data, p[n:])
	r.size += len(p)
}

// copyTo fills p with the bytes from offset on; they are there.
func (r *ring) copyTo(p []byte, offset uint64) {
	if len(p) == 0 {
		return
	}
	at := (r.head + int(offset-r.base)) % len(r.data)
	n := copy(p, r.data[at:])
	copy(p[n:], r.data)
}

// trim forgets the bytes below offset, which is between base and end.
func (r *ring) trim(offset uint64) {
	n := int(offset - r.base)
	if n == 0 {
		return
	}
	r.base, r.size = offset, r.size-n
	if r.size == 0 {
		giveRing(r.data)
		r.head, r.data = 0, nil
		return
	}
	r.head = (r.head + n) % len(r.data)
}

// skip moves an empty ring on.
func (r *ring) skip(to uint64) { r.base = to }
