package config

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/fault"
)

// A setting is one name in the file: how it is read, and how it is written.
type setting struct {
	name string
	read func(*reader, string, *yaml.Node, *Config)
	show func(Config) any // what Save writes; nil: leave it out
}

// The settings in the order in which Save writes a new file.
var topSettings = []setting{
	{"endpoints", list(func(c *Config) *[]string { return &c.Endpoints }, wrongEndpoint),
		func(c Config) any { return orNil(c.Endpoints) }},
	{"ca_file", text(func(c *Config) *string { return &c.CAFile }, wrongCAFile),
		func(c Config) any { return orNil(c.CAFile) }},
	{"anchor", func(r *reader, at string, n *yaml.Node, c *Config) {
		s, ok := r.scalar(at, n, "!!str", "!!int", "!!float") // sixteen bytes may look like a number
		if !ok {
			return
		}
		var wrong string
		c.Anchor, wrong = parseAnchor(s)
		r.wrong(at, n, wrong)
	}, func(c Config) any { return orNil(c.anchor()) }},
	{"mirror", text(func(c *Config) *string { return &c.Mirror }, wrongMirror),
		func(c Config) any { return orNil(c.Mirror) }},
	{"proxy", text(func(c *Config) *string { return &c.Proxy }, wrongProxy),
		func(c Config) any { return orNil(c.Proxy) }},
	{"no_proxy", list(func(c *Config) *[]string { return &c.NoProxy }, wrongNoProxy),
		func(c Config) any { return orNil(c.NoProxy) }},
	{"log_level", text(func(c *Config) *string { return &c.LogLevel }, wrongLogLevel),
		func(c Config) any { return orNil(c.LogLevel) }},
	{"verbose", boolean(func(c *Config) *bool { return &c.Verbose }),
		func(c Config) any { return orNil(c.Verbose) }},
	{"transport", text(func(c *Config) *string { return &c.Transport }, wrongTransport),
		func(c Config) any { return unless(c.Transport, Auto) }},
	{"key_rotation", func(r *reader, at string, n *yaml.Node, c *Config) {
		s, ok := r.scalar(at, n, "!!str")
		if !ok {
			return
		}
		var wrong string
		c.KeyRotation, wrong = parseKeyRotation(s)
		r.wrong(at, n, wrong)
	}, func(c Config) any {
		if c.KeyRotation == 0 || c.KeyRotation == DefaultKeyRotation {
			return nil
		}
		return shortDuration(c.KeyRotation)
	}},
	{"allow", func(r *reader, at string, n *yaml.Node, c *Config) { r.mapping(at+".", n, allowSettings, c) }, nil},
}

var allowSettings = []setting{
	{"exec", boolean(func(c *Config) *bool { return &c.Allow.Exec }), func(c Config) any { return c.Allow.Exec }},
	{"shell", boolean(func(c *Config) *bool { return &c.Allow.Shell }), func(c Config) any { return c.Allow.Shell }},
	{"files", boolean(func(c *Config) *bool { return &c.Allow.Files }), func(c Config) any { return c.Allow.Files }},
	{"power", boolean(func(c *Config) *bool { return &c.Allow.Power }), func(c Config) any { return c.Allow.Power }},
	{"modules", list(func(c *Config) *[]string { return &c.Allow.Modules }, wrongModule),
		func(c Config) any { return append([]string{}, c.Allow.Modules...) }},
}

func (c Config) anchor() string {
	if c.Anchor == (Config{}).Anchor {
		return ""
	}
	return hex.EncodeToString(c.Anchor[:])
}

// shortDuration is "720h" where the standard form is "720h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Parse reads the file's text; name is what errors call it. Missing settings take their defaults, even those that
// Complete asks for.
func Parse(name string, text []byte) (Config, error) {
	c := Default()
	if len(text) > maxSize {
		return Config{}, fault.New(fault.Invalid, "config_invalid", "%s has %d bytes; at most %d are read", name, len(text), maxSize)
	}
	doc, err := document(name, text)
	if err != nil {
		return Config{}, err
	}
	var r reader
	if doc != nil {
		r.mapping("", doc, topSettings, &c)
	}
	if err := r.check.Err("config_invalid", "%s is not valid", name); err != nil {
		return Config{}, err
	}
	return c, nil
}

// document is the one value in the text; nil for an empty file.
func document(name string, text []byte) (*yaml.Node, error) {
	syntax := func(err error) error {
		return fault.New(fault.Invalid, "config_invalid", "%s is not YAML: %s", name,
			strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); err != nil {
		if err.Error() == "EOF" {
			return nil, nil
		}
		return nil, syntax(err)
	}
	if err := d.Decode(&more); err == nil {
		return nil, fault.New(fault.Invalid, "config_invalid", "%s has a second document at line %d; write one only", name, more.Line)
	} else if err.Error() != "EOF" {
		return nil, syntax(err)
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil, nil
	}
	return doc.Content[0], nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// maxWrong things are named; nobody reads more.
const maxWrong = 32

// reader collects what is wrong.
type reader struct {
	check fault.Check
	found int
}

func (r *reader) wrong(at string, n *yaml.Node, what string) {
	if what == "" {
		return
	}
	if r.found++; r.found <= maxWrong {
		r.check.Add(fmt.Sprintf("line %d: %s", n.Line, strings.TrimSuffix(at, ".")), "%s", what)
	}
}

func (r *reader) mapping(at string, n *yaml.Node, known []setting, c *Config) {
	if isNull(n) && at != "" {
		return // "allow:" with nothing beneath
	}
	if n.Kind != yaml.MappingNode {
		where := at
		if at == "" {
			where = "the file"
		}
		r.wrong(where, n, "is "+kind(n)+"; write name: value lines")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		j := slices.IndexFunc(known, func(s setting) bool { return s.name == key.Value })
		switch first := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || j < 0:
			r.wrong(at+key.Value, key, unknown(key.Value, at, known))
		case first != 0:
			r.wrong(at+key.Value, key, fmt.Sprintf("is given twice, first on line %d", first))
		default:
			seen[key.Value] = key.Line
			known[j].read(r, at+key.Value, value, c)
		}
	}
}

// unknown names the setting that was probably meant, in this mapping or in the other.
func unknown(name, at string, known []setting) string {
	if at == "" && slices.ContainsFunc(allowSettings, func(s setting) bool { return s.name == name }) {
		return "is not a setting here; write it beneath allow:"
	}
	best, distance := "", 3
	for _, s := range known {
		if d := editDistance(strings.ToLower(name), s.name); d < distance && d < len(s.name) {
			best, distance = s.name, d
		}
	}
	if best != "" {
		return "is not a setting; did you mean " + at + best + "?"
	}
	var names []string
	for _, s := range known {
		names = append(names, s.name)
	}
	return "is not a setting; there are " + strings.Join(names, ", ")
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!str":
		return "text"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "a number"
	}
	return "of a strange type"
}

// scalar is the text of a scalar of one of these types.
func (r *reader) scalar(at string, n *yaml.Node, tags ...string) (string, bool) {
	if n.Kind == yaml.ScalarNode && slices.Contains(tags, n.ShortTag()) {
		return n.Value, true
	}
	want := "text"
	if tags[0] == "!!bool" {
		want = "true or false"
	}
	r.wrong(at, n, "is "+kind(n)+"; write "+want)
	return "", false
}

func text(field func(*Config) *string, wrong func(string) string) func(*reader, string, *yaml.Node, *Config) {
	return func(r *reader, at string, n *yaml.Node, c *Config) {
		if isNull(n) {
			return
		}
		if s, ok := r.scalar(at, n, "!!str"); ok {
			*field(c) = s
			r.wrong(at, n, wrong(s))
		}
	}
}

func boolean(field func(*Config) *bool) func(*reader, string, *yaml.Node, *Config) {
	return func(r *reader, at string, n *yaml.Node, c *Config) {
		if s, ok := r.scalar(at, n, "!!bool"); ok {
			b, err := strconv.ParseBool(strings.ToLower(s))
			if err != nil { // YAML 1.1's yes and no
				r.wrong(at, n, fmt.Sprintf("is %q; write true or false", s))
			}
			*field(c) = b
		}
	}
}

func list(field func(*Config) *[]string, wrong func(string) string) func(*reader, string, *yaml.Node, *Config) {
	return func(r *reader, at string, n *yaml.Node, c *Config) {
		if isNull(n) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			r.wrong(at, n, "is "+kind(n)+"; write a list: [one, another]")
			return
		}
		out := []string{}
		for i, e := range n.Content {
			one := fmt.Sprintf("%s[%d]", at, i)
			s, ok := r.scalar(one, e, "!!str")
			if !ok {
				continue
			}
			r.wrong(one, e, wrong(s))
			if slices.Contains(out, s) {
				r.wrong(one, e, fmt.Sprintf("repeats %q", s))
			}
			out = append(out, s)
		}
		*field(c) = out
	}
}

func orNil[T any](v T) any {
	switch v := any(v).(type) {
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case []string:
		if len(v) == 0 {
			return nil
		}
	}
	return v
}

func unless(s, usual string) any {
	if s == usual || s == "" {
		return nil
	}
	return s
}
