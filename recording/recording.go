// Package recording is what was seen in a shell, kept so that nobody can deny or change it unseen.
//
// A recording is a sequence of Events (output, resizes, the exit; input only where a policy says so), each with its time
// since the session's start. The host makes the events, and two recorders write the same ones independently: the host as
// it sends them, the control plane as they arrive. Everything that a recording's Root rests on follows from the session's
// secret and the events alone, so that two honest recorders come to the same Head, byte for byte:
//
//	secret ── key tree ──▶ key and salt of chunk i
//	events ── at most 256 KiB or 10 s of them ──▶ chunk i: each event sealed by itself (AES-256-GCM, nonce = its number)
//	leaf i = SHA-256(0x00 ‖ salt i ‖ the chunk's bytes as they are on the disk)
//	head   = root of the Merkle tree over the leaves (package ledger), with how many chunks, events and bytes
//
// Where the heads differ, the leaves say which chunk is the first that does; where one recorder was cut off earlier, the
// other shows by HeadAt that it was in step until then.
//
// # Secrecy
//
// The host keeps no key on its disk: its copy can be checked by anybody and read by nobody there, root included, once the
// session is over. Keys come from a tree (Goldreich, Goldwasser and Micali, How to Construct Random Functions, 1986) of
// which any leaf can be taken out for good: Keyring.Shred makes one chunk unreadable, every other stays readable, and the
// proofs hold. Forget deletes all of it and leaves the proof. Reading takes secrets out of what is shown (see Redactor) where whoever reads asks for that; what is
// recorded is what was seen.
//
// # When things fail
//
// An event that Add accepted has been handed to the kernel: it is there after SIGKILL, and after a power cut once Sync has
// returned. Resume cuts what a crash left unfinished at the end of the file and goes on. A recorder that cannot write fails
// with ErrFull, and its session ends: nothing goes on unrecorded. Space for the end of a recording is set aside before it is
// needed, and a Spool keeps a reserve from which sessions can still be started on a disk that is full: see there.
//
// What is not shown: a host whose root changed the shell host itself records what it likes, in both copies. The control
// plane's copy holds what the host said at the time, which the host cannot take back later.
package recording

import (
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// Kind of an event.
type Kind byte

// The kinds. Their letters are those of asciicast v3.
const (
	Begin  Kind = 'h' // first of all: JSON that says what this is (Header)
	Output Kind = 'o'
	Input  Kind = 'i'
	Resize Kind = 'r' // "COLSxROWS"
	Marker Kind = 'm' // a line of text: who joined, that the link was lost
	Exit   Kind = 'x' // last of all: JSON that says how it ended (Ending)
)

func (k Kind) known() bool {
	switch k {
	case Begin, Output, Input, Resize, Marker, Exit:
		return true
	}
	return false
}

// MaxData is the most that one event holds, in bytes.
const MaxData = 32 << 10

// maxAt bounds an event's time: a year of one session.
const maxAt = 366 * 24 * time.Hour

// Event is something seen. Times have microseconds and never go back.
type Event struct {
	At   time.Duration // since the session's start
	Kind Kind
	Data []byte
}

// Append adds an event's encoding: kind, time in microseconds (varint), data.
func (e Event) Append(b []byte) []byte {
	b = append(b, byte(e.Kind))
	b = binary.AppendUvarint(b, uint64(e.At/time.Microsecond))
	return append(b, e.Data...)
}

// AppendFrame adds an event as it travels: its encoding behind its length (3 bytes, big endian). Head.Bytes counts frames.
func (e Event) AppendFrame(b []byte) []byte {
	at := len(b)
	b = e.Append(append(b, 0, 0, 0))
	putLength(b[at:], len(b)-at-lengthSize)
	return b
}

// ParseFrame takes the first frame off b. What is not there whole yet is no error: n is 0.
func ParseFrame(b []byte) (e Event, n int, err error) {
	if len(b) < lengthSize {
		return Event{}, 0, nil
	}
	n = length(b)
	if n > maxPlain {
		return Event{}, 0, errMalformed
	}
	if len(b) < lengthSize+n {
		return Event{}, 0, nil
	}
	e, err = Parse(b[lengthSize : lengthSize+n])
	return e, lengthSize + n, err
}

func putLength(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }

func length(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// Parse reads an encoded event; its data is part of b.
func Parse(b []byte) (Event, error) {
	if len(b) < 2 || !Kind(b[0]).known() {
		return Event{}, errMalformed
	}
	at, n := binary.Uvarint(b[1:])
	if n <= 0 || at > uint64(maxAt/time.Microsecond) || len(b)-1-n > MaxData {
		return Event{}, errMalformed
	}
	return Event{At: time.Duration(at) * time.Microsecond, Kind: Kind(b[0]), Data: b[1+n:]}, nil
}

var errMalformed = fault.New(fault.Invalid, "recording_malformed", "this is no event of a recording")

// Header is what the first event says.
type Header struct {
	Session string    `json:"session"`
	Host    string    `json:"host"`
	User    string    `json:"user"` // of the host
	Who     string    `json:"who"`  // of the control plane
	Start   time.Time `json:"start"`
	Cols    int       `json:"cols"`
	Rows    int       `json:"rows"`
	Term    string    `json:"term"`
	Command string    `json:"command,omitempty"`
}

// Ending is what the last event says.
type Ending struct {
	Status int    `json:"status"`           // of the shell: as a shell would show it, 128 + the signal
	Reason string `json:"reason,omitempty"` // what ended it, where it did not end by itself
}

// Size is a terminal's, as a Resize says it.
func Size(cols, rows int) []byte { return fmt.Appendf(nil, "%dx%d", cols, rows) }

// ParseSize reads it.
func ParseSize(b []byte) (cols, rows int, ok bool) {
	if len(b) > 16 || !utf8.Valid(b) {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(string(b), "%dx%d", &cols, &rows)
	return cols, rows, err == nil && n == 2 && cols > 0 && rows > 0 && cols <= 10_000 && rows <= 10_000
}

// Head is what a recording comes to.
type Head struct {
	Session string        `json:"session"`
	Chunks  int64         `json:"chunks"`
	Events  int64         `json:"events"`
	Bytes   int64         `json:"bytes"`  // of events in their frames: how far into the session's stream the recording goes
	Length  time.Duration `json:"length"` // time of the last event, in nanoseconds
	Root    ledger.Hash   `json:"root"`
}

// Message is what a signature over a head signs.
func (h Head) Message() []byte {
	return fmt.Appendf(nil, "loopback recording 1\x00%s\x00%d %d %d %d %x", h.Session, h.Chunks, h.Events, h.Bytes, h.Length, h.Root)
}

// ErrTampered refuses a recording that is not what its head says.
var ErrTampered = fault.New(fault.Precondition, "recording_tampered", "the recording was changed, or is damaged")

// ErrFull is a disk's that holds no more.
var ErrFull = fault.New(fault.Exhausted, "recording_full", "there is no more room to record").
	WithHint("make room on the disk; nothing goes on unrecorded")

// ErrShredded is a chunk's whose key is gone.
var ErrShredded = fault.New(fault.NotFound, "recording_shredded", "this part of the recording was shredded")
