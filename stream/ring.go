package stream

// ring holds the bytes from base to end of a channel. It grows as it fills, and gives large memory back when it is empty.
type ring struct {
	base uint64
	data []byte // circular; its length is the capacity
	head int    // of base in data
	size int
}

const (
	ringFirst = 4 << 10
	ringKept  = 64 << 10 // capacity that an empty ring may keep
)

func (r *ring) end() uint64 { return r.base + uint64(r.size) }

// append adds p; the caller has seen to the bound.
func (r *ring) append(p []byte) {
	if need := r.size + len(p); need > len(r.data) {
		capacity := max(len(r.data), ringFirst)
		for capacity < need {
			capacity *= 2
		}
		grown := make([]byte, capacity)
		r.copyTo(grown[:r.size], r.base)
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
		r.head = 0
		if len(r.data) > ringKept {
			r.data = nil
		}
		return
	}
	r.head = (r.head + n) % len(r.data)
}

// skip moves an empty ring on.
func (r *ring) skip(to uint64) { r.base = to }
