package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// jsonCodec is the API's JSON: every field is there, also when it is zero or empty, so that scripts need no defaults,
// and the same answer always has the same bytes. A field that the API does not have is refused rather than dropped: a
// misspelt "maxUses" must not become the default in silence.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (c jsonCodec) IsBinary() bool { return false }

func (c jsonCodec) Marshal(m any) ([]byte, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", m)
	}
	loose, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(p)
	if err != nil {
		return nil, err
	}
	// protojson varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Compact(&out, loose); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c jsonCodec) MarshalStable(m any) ([]byte, error) { return c.Marshal(m) }

func (c jsonCodec) Unmarshal(b []byte, m any) error {
	p, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", m)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return fmt.Errorf("the body is empty; send at least {}")
	}
	return protojson.Unmarshal(b, p)
}
