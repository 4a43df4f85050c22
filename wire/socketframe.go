package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
)

// The agent's WebSocket (RFC 6455): binary messages, no extensions. It is written out here because an agent needs its
// dial to be bounded by a context, each of its failures told apart, and few dependencies.

// Opcodes.
const (
	opContinue = 0x0
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xA
)

var errFrame = errors.New("not a WebSocket frame that a control plane sends")

// frameHeader is the head of a frame from a server, which masks nothing.
type frameHeader struct {
	final  bool
	opcode byte
	length int
}

// readFrameHeader reads and checks a frame's head. Lengths beyond a Noise message are refused before they are used.
func readFrameHeader(r *bufio.Reader) (h frameHeader, err error) {
	var b [8]byte
	if _, err = io.ReadFull(r, b[:2]); err != nil {
		return h, err
	}
	h.final, h.opcode, h.length = b[0]&0x80 != 0, b[0]&0x0f, int(b[1]&0x7f)
	if b[0]&0x70 != 0 || b[1]&0x80 != 0 {
		return h, errFrame
	}
	switch h.length {
	case 126:
		if _, err = io.ReadFull(r, b[:2]); err != nil {
			return h, err
		}
		h.length = int(binary.BigEndian.Uint16(b[:]))
	case 127:
		if _, err = io.ReadFull(r, b[:8]); err != nil {
			return h, err
		}
		length := binary.BigEndian.Uint64(b[:])
		if length > maxMessage {
			return h, errFrame
		}
		h.length = int(length)
	}
	switch h.opcode {
	case opBinary, opContinue:
	case opClose, opPing, opPong:
		if !h.final || h.length > 125 {
			return h, errFrame
		}
	default:
		return h, errFrame
	}
	return h, nil
}

// appendFrame appends a final frame, masked as a client's frames are.
func appendFrame(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := rand.Uint32()
	b = binary.BigEndian.AppendUint32(b, key)
	at := len(b)
	b = append(b, payload...)
	for i := at; i < len(b); i++ {
		b[i] ^= byte(key >> (24 - 8*((i-at)&3)))
	}
	return b
}

// readSocketMessage reads the next binary message into buffer, whatever frames an intermediary cut it into. Control
// frames on the way go to control, which may end the reading.
func readSocketMessage(r *bufio.Reader, buffer []byte, control func(opcode byte, payload []byte) error) ([]byte, error) {
	message, begun := buffer[:0], false
	for {
		h, err := readFrameHeader(r)
		if err != nil {
			return nil, err
		}
		if h.opcode >= opClose {
			var payload [125]byte
			if _, err := io.ReadFull(r, payload[:h.length]); err != nil {
				return nil, err
			}
			if err := control(h.opcode, payload[:h.length]); err != nil {
				return nil, err
			}
			continue
		}
		if begun != (h.opcode == opContinue) || len(message)+h.length > maxMessage {
			return nil, errFrame
		}
		begun = true
		at := len(message)
		message = append(message, make([]byte, h.length)...)
		if _, err := io.ReadFull(r, message[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if h.final {
			return message, nil
		}
	}
}
