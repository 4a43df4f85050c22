package shell

import (
	"encoding/binary"

	"github.com/loopbackd/loopback/fault"
)

// Channels of a session's stream.
//
// Each time that the control plane's end begins anew, on the same replica or on another, it is a further life of the session, with
// channels of its own: what an end had sent half of when it died must not be gone on with by the next, and the next may have less
// of the record, or none.
const (
	Closing = 1 // host → control plane: the head of the host's recording, as JSON, once it has ended
	Typed   = 0 // control plane → host, and Life: Input
	Control = 1 // control plane → host, and Life: Do

	applied = 2
	events  = applied + MaxLives // of the lives after the first
)

// Life adds to Typed and Control.
func Life(n int) byte { return byte(2 * n) }

// Applied is the channel on which the host tells how far each typist's input of a life was typed (Input without data).
func Applied(life int) byte { return byte(applied + life) }

// Events is the channel of the frames of the recording (recording.Event), and nothing else: the same bytes that the host's own
// recorder has. In the first life they come from the beginning, by themselves; in a later one from where DoAgain says.
func Events(life int) byte {
	if life == 0 {
		return 0
	}
	return byte(events + life)
}

// Input is what somebody types. Origin names who, by a number that they chose at random; Offset counts the bytes of theirs
// before it. What comes twice is typed once.
type Input struct {
	Origin uint64
	Offset uint64
	Data   []byte
}

const (
	inputHeader = 18
	// MaxInput is the most that one Input holds, in bytes.
	MaxInput = 16 << 10
)

// Append adds the encoding: length of data (2 bytes), origin and offset (8 each), data; numbers are big endian.
func (i Input) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(i.Data)))
	b = binary.BigEndian.AppendUint64(b, i.Origin)
	b = binary.BigEndian.AppendUint64(b, i.Offset)
	return append(b, i.Data...)
}

// ParseInput takes the first off b. n is 0 where it is not there whole yet.
func ParseInput(b []byte) (i Input, n int, err error) {
	if len(b) < inputHeader {
		return Input{}, 0, nil
	}
	size := int(binary.BigEndian.Uint16(b))
	if size > MaxInput {
		return Input{}, 0, errFrame
	}
	if len(b) < inputHeader+size {
		return Input{}, 0, nil
	}
	return Input{binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint64(b[10:]), b[inputHeader : inputHeader+size]}, inputHeader + size, nil
}

var errFrame = fault.New(fault.Invalid, "shell_frame_invalid", "a frame of a shell's stream is not valid")

// Act is what is to be done.
type Act byte

// The acts.
const (
	DoResize Act = 'r' // Text: "COLSxROWS"
	DoMark   Act = 'm' // Text is recorded
	DoEnd    Act = 'e' // Text is why
	DoHold   Act = 'a' // nobody types any more: Text is empty. The host counts its Detached time from here
	DoResume Act = 'b' // somebody does again
	DoAgain  Act = 'g' // this life's end takes the record from here on, to which it has it. Text: a decimal recording.Head.Bytes
)

// Do is one act on a session.
type Do struct {
	Act  Act
	Text string
}

// MaxText of an act, in bytes.
const MaxText = 1024

// Append adds the encoding: act, length (2 bytes, big endian), text.
func (d Do) Append(b []byte) []byte {
	b = append(b, byte(d.Act))
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.Text)))
	return append(b, d.Text...)
}

// ParseDo takes the first off b. n is 0 where it is not there whole yet.
func ParseDo(b []byte) (d Do, n int, err error) {
	if len(b) < 3 {
		return Do{}, 0, nil
	}
	size := int(binary.BigEndian.Uint16(b[1:]))
	if size > MaxText {
		return Do{}, 0, errFrame
	}
	if len(b) < 3+size {
		return Do{}, 0, nil
	}
	return Do{Act(b[0]), string(b[3 : 3+size])}, 3 + size, nil
}
