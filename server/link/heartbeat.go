package link

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// beat is a Heartbeat.
type beat struct {
	sequence uint64
	uptime   time.Duration
}

// Field numbers of the frames that are read and written here by hand. They are part of the contract and never change.
var (
	heartbeatField = (*pb.AgentFrame)(nil).ProtoReflect().Descriptor().Fields().ByName("heartbeat").Number()
	pulseField     = (*pb.ServerFrame)(nil).ProtoReflect().Descriptor().Fields().ByName("pulse").Number()
)

// parseHeartbeat reads a frame that is a plain heartbeat, without allocating. Any other frame, one with fields that it
// does not know included, is not ok and left to the general parser.
func parseHeartbeat(frame []byte) (b beat, ok bool) {
	num, typ, n := protowire.ConsumeTag(frame)
	if n < 0 || num != heartbeatField || typ != protowire.BytesType {
		return beat{}, false
	}
	body, m := protowire.ConsumeBytes(frame[n:])
	if m < 0 || n+m != len(frame) {
		return beat{}, false
	}
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return beat{}, false
		}
		body = body[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			b.sequence, n = protowire.ConsumeVarint(body)
		case num == 2 && typ == protowire.BytesType:
			var d []byte
			if d, n = protowire.ConsumeBytes(body); n >= 0 {
				var ok bool
				if b.uptime, ok = parseDuration(d); !ok {
					return beat{}, false
				}
			}
		default:
			return beat{}, false
		}
		if n < 0 {
			return beat{}, false
		}
		body = body[n:]
	}
	return b, true
}

func parseDuration(b []byte) (time.Duration, bool) {
	var seconds, nanos int64
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.VarintType || num > 2 {
			return 0, false
		}
		v, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			return 0, false
		}
		if num == 1 {
			seconds = int64(v)
		} else {
			nanos = int64(int32(v))
		}
		b = b[n+m:]
	}
	const most = int64(1<<63-1) / int64(time.Second)
	if seconds < 0 || seconds >= most || nanos < 0 || nanos >= int64(time.Second) {
		return 0, false
	}
	return time.Duration(seconds)*time.Second + time.Duration(nanos), true
}

// heartbeat answers a heartbeat. It is the path that runs all the time: no lock but the peer's own, no memory, no
// database.
func (p *peer) heartbeat(now time.Time, b beat) {
	if p.id == "" {
		p.refuse(refusal{errUnexpected, false})
		return
	}
	p.mu.Lock()
	over, wanting := p.over, p.wanting
	p.mu.Unlock()
	if over {
		return
	}
	p.heard.Store(now.UnixNano())
	p.uptime.Store(int64(max(b.uptime, 0)))
	h := p.hub
	h.beats.Add(1)

	var paced time.Duration
	told, interval := time.Duration(p.interval.Load()), h.interval(p.id)
	if d := interval - told; d > told/8 || -d > told/8 { // small changes are not worth telling
		paced = interval
		p.interval.Store(int64(interval))
	}
	pulse := appendPulse(p.pulse[:0], b.sequence, paced, wanting)
	h.metrics.sent(len(pulse))
	_ = p.conn.Send(pulse) // where it fails, Closed comes
}

// appendPulse encodes a ServerFrame with a Pulse.
func appendPulse(to []byte, sequence uint64, interval time.Duration, wantInventory bool) []byte {
	to = protowire.AppendTag(to, pulseField, protowire.BytesType)
	at := len(to)
	to = append(to, 0) // the length: a pulse is shorter than 128 bytes
	if sequence != 0 {
		to = protowire.AppendTag(to, 1, protowire.VarintType)
		to = protowire.AppendVarint(to, sequence)
	}
	if interval > 0 {
		to = protowire.AppendTag(to, 2, protowire.BytesType)
		inner := len(to)
		to = append(to, 0)
		if s := interval / time.Second; s > 0 {
			to = protowire.AppendTag(to, 1, protowire.VarintType)
			to = protowire.AppendVarint(to, uint64(s))
		}
		if ns := interval % time.Second; ns > 0 {
			to = protowire.AppendTag(to, 2, protowire.VarintType)
			to = protowire.AppendVarint(to, uint64(ns))
		}
		to[inner] = byte(len(to) - inner - 1)
	}
	if wantInventory {
		to = protowire.AppendTag(to, 3, protowire.VarintType)
		to = protowire.AppendVarint(to, 1)
	}
	to[at] = byte(len(to) - at - 1)
	return to
}
