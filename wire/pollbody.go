package wire

import "encoding/binary"

// Headers of a poll.
const (
	headerLink     = "Loopback-Link"
	headerLane     = "Loopback-Lane"
	headerSequence = "Loopback-Sequence"

	laneUp   = "up"
	laneDown = "down"
)

// maxBody bounds a poll's request and its answer; what is more waits for the next.
const maxBody = 256 << 10

// appendMessage adds a message to a poll's body: two bytes of length, big endian, and the message.
func appendMessage(body, message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(body, uint16(len(message))), message...)
}

// splitBody calls each with every message of a body, in order, until it says stop. A body that is cut or padded is
// ErrTampered: those lengths are ours, and somebody touched them. No message is passed on before all lengths hold.
func splitBody(body []byte, each func(message []byte) (more bool)) error {
	for rest := body; len(rest) > 0; {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return ErrTampered
		}
		rest = rest[2+int(binary.BigEndian.Uint16(rest)):]
	}
	for rest := body; len(rest) > 0; {
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if !each(rest[2:end]) {
			return nil
		}
		rest = rest[end:]
	}
	return nil
}

// cutBody is the longest run of whole messages at the head of a queue that fits into one body.
func cutBody(queue []byte) int {
	cut := 0
	for cut < len(queue) {
		next := cut + 2 + int(binary.BigEndian.Uint16(queue[cut:]))
		if next > maxBody {
			break
		}
		cut = next
	}
	return cut
}
