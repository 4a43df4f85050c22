package main

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func text(c protogen.Comments) string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(string(c)), "\n") {
		lines = append(lines, strings.TrimSpace(l))
	}
	return strings.TrimSpace(strings.Join(lines, " "))
}

func readOnly(m *protogen.Method) bool {
	o, _ := m.Desc.Options().(*descriptorpb.MethodOptions)
	return o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

func (a *api) sort() {
	slices.SortFunc(a.Services, func(x, y service) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(a.Messages, func(x, y message) int { return strings.Compare(x.Name, y.Name) })
}

// add describes a message and all that it holds.
func (a *api) add(seen map[string]bool, m *protogen.Message) {
	name := string(m.Desc.Name())
	if seen[name] || m.Desc.IsMapEntry() || wellKnown(m.Desc) != (kind{}) {
		return
	}
	seen[name] = true
	out := message{Name: name, Comment: text(m.Comments.Leading)}
	for _, f := range m.Fields {
		comment := text(f.Comments.Leading)
		if comment == "" {
			comment = text(f.Comments.Trailing)
		}
		one := ""
		if f.Oneof != nil && !f.Oneof.Desc.IsSynthetic() {
			one = string(f.Oneof.Desc.Name())
		}
		out.Fields = append(out.Fields, field{Name: f.Desc.JSONName(), Comment: comment, Type: typeOf(f.Desc), OneOf: one})
		if f.Message != nil {
			a.add(seen, f.Message)
			for _, inner := range f.Message.Fields {
				if f.Desc.IsMap() && inner.Message != nil {
					a.add(seen, inner.Message)
				}
			}
		}
	}
	a.Messages = append(a.Messages, out)
}

func typeOf(f protoreflect.FieldDescriptor) kind {
	if f.IsMap() {
		k := single(f.MapValue())
		k.Map = true
		return k
	}
	k := single(f)
	k.Repeated = f.IsList()
	return k
}

func single(f protoreflect.FieldDescriptor) kind {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return kind{JSON: "boolean"}
	case protoreflect.StringKind:
		return kind{JSON: "string"}
	case protoreflect.BytesKind:
		return kind{JSON: "string", Format: "byte"}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return kind{JSON: "number", Format: "double"}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind, protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return kind{JSON: "integer", Format: "int32"}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return kind{JSON: "string", Format: "int64"}
	case protoreflect.MessageKind:
		if k := wellKnown(f.Message()); k != (kind{}) {
			return k
		}
		return kind{Message: string(f.Message().Name())}
	default:
		panic("no JSON type for " + string(f.FullName()))
	}
}

// wellKnown is the JSON form of the messages that have one of their own.
func wellKnown(m protoreflect.MessageDescriptor) kind {
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return kind{JSON: "string", Format: "date-time"}
	case "google.protobuf.Duration":
		return kind{JSON: "string", Format: "duration"}
	case "google.protobuf.Value":
		return kind{JSON: "any"}
	default:
		return kind{}
	}
}
