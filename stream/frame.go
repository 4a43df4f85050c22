package stream

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/loopbackd/loopback/fault"
)

// Sizes, in bytes.
const (
	MaxPayload    = 32 << 10
	MaxMessage    = 63 << 10 // what one Carrier.Send gets: with its seal it fits into one message of the link
	DefaultWindow = 1 << 20
	MaxWindow     = 16 << 20

	// MaxChannels in each direction.
	MaxChannels = 16

	headerSize = 12
	resumeSize = 26
	maxReason  = 512
)

// Types of frames.
const (
	typeResume = 1 + iota
	typeData
	typeEnd
	typeAck
	typeStop
	typePing
	typePong
	typeBye
)

const flagEnd = 1 // the channel's end was consumed

// frame is one of a message's. Its payload is the message's own memory.
type frame struct {
	kind    byte
	channel byte
	offset  uint64
	payload []byte
}

func appendHeader(b []byte, kind, channel byte, offset uint64, length int) []byte {
	b = append(b, kind, channel)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	return binary.BigEndian.AppendUint64(b, offset)
}

func appendFrame(b []byte, f frame) []byte {
	return append(appendHeader(b, f.kind, f.channel, f.offset, len(f.payload)), f.payload...)
}

// nextFrame takes the first frame off a message.
func nextFrame(message []byte) (f frame, rest []byte, err error) {
	if len(message) < headerSize {
		return frame{}, nil, ErrMalformed
	}
	length := int(binary.BigEndian.Uint16(message[2:]))
	f = frame{kind: message[0], channel: message[1], offset: binary.BigEndian.Uint64(message[4:])}
	message = message[headerSize:]
	if length > len(message) || length > MaxPayload || f.channel >= MaxChannels || f.offset > 1<<62 {
		return frame{}, nil, ErrMalformed
	}
	f.payload = message[:length:length]
	return f, message[length:], nil
}

// mark is what a reader has of its channel, as resume tells it.
type mark struct {
	channel, flags            byte
	received, consumed, limit uint64
}

func appendMark(b []byte, m mark) []byte {
	b = append(b, m.channel, m.flags)
	b = binary.BigEndian.AppendUint64(b, m.received)
	b = binary.BigEndian.AppendUint64(b, m.consumed)
	return binary.BigEndian.AppendUint64(b, m.limit)
}

func readMarks(b []byte) ([]mark, error) {
	if len(b)%resumeSize != 0 || len(b)/resumeSize > MaxChannels {
		return nil, ErrMalformed
	}
	var marks []mark
	seen := [MaxChannels]bool{}
	for ; len(b) > 0; b = b[resumeSize:] {
		m := mark{
			channel: b[0], flags: b[1], received: binary.BigEndian.Uint64(b[2:]),
			consumed: binary.BigEndian.Uint64(b[10:]), limit: binary.BigEndian.Uint64(b[18:]),
		}
		if m.channel >= MaxChannels || seen[m.channel] || m.consumed > m.received || m.received > m.limit || m.limit > 1<<62 {
			return nil, ErrMalformed
		}
		seen[m.channel] = true
		marks = append(marks, m)
	}
	return marks, nil
}

// encodeReason is why a session is over as it travels: kind, code and message, with NULs between them.
func encodeReason(reason error) []byte {
	if reason == nil {
		return nil
	}
	f := fault.Of(reason)
	message := f.Message
	if len(message) > maxReason/2 {
		message = strings.ToValidUTF8(message[:maxReason/2], "")
	}
	return []byte(string(f.Kind) + "\x00" + f.Code + "\x00" + message)
}

func decodeReason(b []byte) *fault.Error {
	if len(b) == 0 {
		return ErrDone
	}
	parts := strings.SplitN(string(b), "\x00", 3)
	if len(b) > maxReason || len(parts) != 3 || !utf8.Valid(b) ||
		parts[1] == "" || strings.Trim(parts[1], "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return ErrMalformed
	}
	kind := fault.Kind(parts[0])
	switch kind {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Exists, fault.Conflict,
		fault.Precondition, fault.Exhausted, fault.Unavailable, fault.Timeout, fault.Canceled, fault.Internal:
	default:
		return ErrMalformed
	}
	return fault.New(kind, parts[1], "%s", strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, parts[2]))
}

// How sessions and their attachments end.
var (
	ErrDone       = fault.New(fault.Canceled, "stream_done", "the session is over")
	ErrMalformed  = fault.New(fault.Invalid, "stream_malformed", "the peer broke the stream's protocol")
	ErrGone       = fault.New(fault.Precondition, "stream_gone", "bytes that the peer asks for were consumed before")
	ErrStopped    = fault.New(fault.Canceled, "stream_stopped", "the peer reads no more of this")
	ErrClosed     = fault.New(fault.Canceled, "stream_closed", "this channel was closed for writing")
	ErrSuperseded = fault.New(fault.Canceled, "stream_superseded", "a newer connection carries the session")
	ErrSilent     = fault.New(fault.Timeout, "stream_silent", "the connection brings no answer")
	ErrAbandoned  = fault.New(fault.Unavailable, "stream_abandoned", "the session's other end could not be reached for too long")
)
