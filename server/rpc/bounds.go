package rpc

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/loopbackd/loopback/fault"
)

// Bounds of every request, whatever its method. Slices have tighter ones for what they know; these keep what nobody
// thought of from being looked at, copied and stored. Bytes are bounded by MaxMessage alone.
const (
	MaxText    = 8 << 10 // bytes of a string
	MaxEntries = 1000    // of a list or a map
)

// maxViolations is how many of them a caller is told of.
const maxViolations = 20

// bound refuses a message that is out of bounds.
func bound(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return nil
	}
	var b bounds
	b.message("", m.ProtoReflect())
	return b.Err("request_too_large", "the request is too large")
}

type bounds struct {
	fault.Check
	found int
}

func (b *bounds) add(field, format string, args ...any) {
	if b.found++; b.found <= maxViolations {
		b.Add(field, format, args...)
	}
}

func (b *bounds) message(path string, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := path + f.JSONName()
		switch {
		case f.IsList():
			list := v.List()
			if list.Len() > MaxEntries {
				b.add(at, "has %d entries; at most %d are allowed", list.Len(), MaxEntries)
				break
			}
			for i := range list.Len() {
				b.value(fmt.Sprintf("%s[%d]", at, i), f, list.Get(i))
			}
		case f.IsMap():
			entries := v.Map()
			if entries.Len() > MaxEntries {
				b.add(at, "has %d entries; at most %d are allowed", entries.Len(), MaxEntries)
				break
			}
			entries.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				b.value(at+" key", f.MapKey(), k.Value())
				b.value(at+" value", f.MapValue(), v)
				return b.found < maxViolations
			})
		default:
			b.value(at, f, v)
		}
		return b.found < maxViolations
	})
}

func (b *bounds) value(at string, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.StringKind:
		if n := len(v.String()); n > MaxText {
			b.add(at, "is %d bytes long; at most %d are allowed", n, MaxText)
		}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		b.message(at+".", v.Message())
	}
}

// boundConn is bound for the messages that a stream brings.
type boundConn struct{ connect.StreamingHandlerConn }

func (c boundConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return bound(message)
}
