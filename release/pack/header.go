package pack

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Types of an rpm header's values.
const (
	typeInt16       = 3
	typeInt32       = 4
	typeString      = 6
	typeBytes       = 7
	typeStrings     = 8
	typeTranslation = 9 // strings, one a locale
)

// header is a header structure of an rpm: values by tag. What stands in it is an index of fixed-size entries and a store
// that they point into, as "Package File Format" of rpm's reference manual has it.
type header struct {
	region int32 // tag of the entry that spans the whole of it, which digests are about
	values []value
}

type value struct {
	tag, kind int32
	count     int32
	body      []byte
}

func (h *header) text(tag int32, s string) {
	h.values = append(h.values, value{tag, typeString, 1, append([]byte(s), 0)})
}

func (h *header) translated(tag int32, s string) {
	h.values = append(h.values, value{tag, typeTranslation, 1, append([]byte(s), 0)})
}

func (h *header) bytes(tag int32, b []byte) {
	h.values = append(h.values, value{tag, typeBytes, int32(len(b)), b})
}

func (h *header) texts(tag int32, list []string) {
	if len(list) == 0 {
		return
	}
	var body []byte
	for _, s := range list {
		body = append(append(body, s...), 0)
	}
	h.values = append(h.values, value{tag, typeStrings, int32(len(list)), body})
}

func (h *header) int32s(tag int32, list ...uint32) {
	if len(list) == 0 {
		return
	}
	var body []byte
	for _, n := range list {
		body = binary.BigEndian.AppendUint32(body, n)
	}
	h.values = append(h.values, value{tag, typeInt32, int32(len(list)), body})
}

func (h *header) int16s(tag int32, list []uint16) {
	if len(list) == 0 {
		return
	}
	var body []byte
	for _, n := range list {
		body = binary.BigEndian.AppendUint16(body, n)
	}
	h.values = append(h.values, value{tag, typeInt16, int32(len(list)), body})
}

// encode lays the header out: entries in order of their tags, numbers aligned to their size, and the region first, whose
// trailer, at the end of the store, leads back to the index.
func (h *header) encode() []byte {
	slices.SortFunc(h.values, func(a, b value) int { return int(a.tag) - int(b.tag) })
	var index, store bytes.Buffer
	entry := func(tag, kind, offset, count int32) {
		for _, n := range []int32{tag, kind, offset, count} {
			_ = binary.Write(&index, binary.BigEndian, n) // a buffer takes everything
		}
	}
	const entrySize = 16
	var later bytes.Buffer
	for _, v := range h.values {
		align := map[int32]int{typeInt16: 2, typeInt32: 4}[v.kind]
		for align > 0 && store.Len()%align != 0 {
			store.WriteByte(0)
		}
		entry(v.tag, v.kind, int32(store.Len()), v.count)
		store.Write(v.body)
	}
	later.Write(index.Bytes())
	index.Reset()
	entry(h.region, typeBytes, int32(store.Len()), entrySize)
	index.Write(later.Bytes())
	entries := int32(len(h.values) + 1)
	for _, n := range []int32{h.region, typeBytes, -entries * entrySize, entrySize} {
		_ = binary.Write(&store, binary.BigEndian, n)
	}
	out := []byte{0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0}
	out = binary.BigEndian.AppendUint32(out, uint32(entries))
	out = binary.BigEndian.AppendUint32(out, uint32(store.Len()))
	return append(append(out, index.Bytes()...), store.Bytes()...)
}
