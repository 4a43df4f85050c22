package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"
)

// escape writes what is hostile in a JSON text as escapes, which mean the same. It stands in strings only.
func escape(b []byte) []byte {
	if !bytes.ContainsFunc(b, func(r rune) bool { return hostile(r) && r != '\n' }) {
		return b
	}
	var out []byte
	for _, r := range string(b) {
		switch {
		case !hostile(r) || r == '\n': // json.Indent's own
			out = append(out, string(r)...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// writeYAML writes a JSON text as YAML, its fields in their order.
func writeYAML(w io.Writer, text json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // 1000000 is not 1e+06
	node, err := yamlNode(d)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(node), e.Close()); err != nil {
		return err
	}
	// What is left of hostile characters stands in double quotes, where an escape means the same.
	var b strings.Builder
	for _, r := range out.String() {
		switch {
		case !hostile(r) || r == '\n':
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// yamlNode reads the next JSON value.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch v := t.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		if v == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for d.More() {
			for range map[json.Delim]int{'{': 2, '[': 1}[v] {
				one, err := yamlNode(d)
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, one)
			}
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err = d.Token()
	case string:
		n.Tag, n.Value = "!!str", v
		if strings.ContainsFunc(v, hostile) {
			n.Style = yaml.DoubleQuotedStyle
		}
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(v)
	default:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, err
}
