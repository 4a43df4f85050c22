package shell

import (
	"encoding/binary"

	"github.com/loopbackd/loopback/fault"
)

// Channels of a session's stream. What the host writes on Events are the frames of the recording, and nothing else: the same
// bytes that its own recorder has.
const (
	Events  = 0 // host → control plane: recording.Event frames
	Closing = 1 // host → control plane: the head of the host's recording, as JSON, once it has ended
	applied = 2
	Typed   = 0 // control plane → host: Input
	Control = 1 // control plane → host: Do
)

// Life adds to Typed and Control for each time that the control plane's end began anew: what it had sent half of when it died must
// not be gone on with by another.
func Life(n int) byte { return byte(2 * n) }

// Applied is the channel on which the host tells how far each typist's input of a life was typed (Input without data).
func Applied(life int) byte { return byte(applied + life) }

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
