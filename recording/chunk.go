package recording

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"time"

	"github.com/loopbackd/loopback/ledger"
)

// A file of a recording is magic and records. A record is the length of what follows (3 bytes, big endian, the highest bit
// set where a chunk begins), the salt where a chunk begins, and the sealed event.
const magic = "LBREC1\r\n"

const (
	lengthSize = 3
	tagSize    = 16
	begins     = 1 << 23 // in the length
	maxPlain   = 1 + binary.MaxVarintLen64 + MaxData
	maxSealed  = maxPlain + tagSize
)

// A chunk ends before the event with which it would be larger or longer than this.
const (
	ChunkSize = 256 << 10 // bytes on the disk
	ChunkTime = 10 * time.Second
)

// chunking is where recorders agree on chunks and their leaves.
type chunking struct {
	head   Head
	tree   ledger.Range
	leaf   hash.Hash     // of the chunk under way; nil before the first
	size   int           // of the chunk under way
	began  time.Duration // time of its first event
	count  int64         // events in it
	chunks []Chunk
	at     int64 // offset in the file
}

// Chunk is a piece of a recording with a key of its own.
type Chunk struct {
	Offset   int64         `json:"offset"` // in the file
	Size     int64         `json:"size"`
	At       time.Duration `json:"at"`    // time of its first event
	Event    int64         `json:"event"` // number of its first event
	Byte     int64         `json:"byte"`  // of the session's stream at which it begins: see Head.Bytes
	Leaf     ledger.Hash   `json:"leaf"`
	Shredded bool          `json:"shredded,omitempty"`
}

// cut tells whether an event begins a new chunk.
func (c *chunking) cut(record int, at time.Duration) bool {
	return c.leaf == nil || c.size+record > ChunkSize || at-c.began >= ChunkTime
}

// end finishes the chunk under way.
func (c *chunking) end() {
	if c.leaf == nil {
		return
	}
	var h ledger.Hash
	c.leaf.Sum(h[:0])
	c.tree.AddHash(h)
	last := &c.chunks[len(c.chunks)-1]
	last.Leaf, last.Size = h, c.at-last.Offset
	c.leaf = nil
}

// begin starts a chunk with its first event at a time.
func (c *chunking) begin(salt []byte, at time.Duration) {
	c.leaf = sha256.New()
	c.leaf.Write([]byte{0})
	c.leaf.Write(salt)
	c.size, c.began, c.count = 0, at, 0
	c.chunks = append(c.chunks, Chunk{Offset: c.at, At: at, Event: c.head.Events, Byte: c.head.Bytes})
	c.head.Chunks++
}

// add counts a record, its salt left out, and the event in it.
func (c *chunking) add(record []byte, salted int, plain int, at time.Duration) {
	c.leaf.Write(record)
	c.size += len(record)
	c.at += int64(len(record) + salted)
	c.count++
	c.head.Events++
	c.head.Bytes += int64(plain)
	c.head.Length = at
}

// now is the head as it would be if the recording ended here.
func (c *chunking) now() Head {
	h := c.head
	if c.leaf == nil {
		h.Root = c.tree.Root()
		return h
	}
	sealed := c.tree.Clone()
	var leaf ledger.Hash
	c.leaf.Sum(leaf[:0])
	sealed.AddHash(leaf)
	h.Root = sealed.Root()
	return h
}

// nonce of the n-th event of a chunk: each key seals each number once.
func nonce(n int64) (b [12]byte) {
	binary.BigEndian.PutUint64(b[4:], uint64(n))
	return b
}

func seal(out []byte, aead cipher.AEAD, n int64, plain []byte) []byte {
	b := nonce(n)
	return aead.Seal(out, b[:], plain, nil)
}
