package link

import "time"

// ParseHeartbeat is parseHeartbeat, for a test that holds it against the general parser.
func ParseHeartbeat(frame []byte) (sequence uint64, uptime time.Duration, ok bool) {
	b, ok := parseHeartbeat(frame)
	return b.sequence, b.uptime, ok
}

// AppendPulse is appendPulse.
var AppendPulse = appendPulse

// Judge is judge.
func Judge(older, newer Answer) string { return string(judge(older, newer)) }
