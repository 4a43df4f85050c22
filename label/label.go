// Package label holds the key-value labels of hosts and the selectors over them, in the syntax of Kubernetes:
//
//	env=prod,tier!=web,role in (db,cache),zone notin (a),gpu,!spot
//
// A selector is a comma-separated list of requirements that must all hold. A missing key satisfies != and notin, as it
// does in Kubernetes. The empty selector matches everything.
package label

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/fault"
)

// Limits on the labels of one resource.
const (
	MaxLabels = 64
	MaxValue  = 63
	MaxKey    = 253 + 1 + 63 // optional DNS prefix, slash, name
)

// Set is the labels of one resource.
type Set map[string]string

var (
	name   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	prefix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// Validate checks keys and values by the rules of Kubernetes; field names the set in the violations.
func (s Set) Validate(c *fault.Check, field string) {
	c.That(len(s) <= MaxLabels, field, "has %d labels; at most %d are allowed", len(s), MaxLabels)
	for _, k := range s.Keys() {
		c.That(validKey(k), field+"["+k+"]", "is not a label key: letters, digits, '-', '_' and '.', at most 63, after an optional DNS prefix and '/'")
		c.That(validValue(s[k]), field+"["+k+"]", "has a value that is not letters, digits, '-', '_' and '.', at most 63")
	}
}

// Keys are the keys in order.
func (s Set) Keys() []string {
	keys := make([]string, 0, len(s))
	for k := range s {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func validKey(k string) bool {
	if p, n, ok := strings.Cut(k, "/"); ok {
		return prefix.MatchString(p) && name.MatchString(n)
	}
	return name.MatchString(k)
}

func validValue(v string) bool { return v == "" || name.MatchString(v) }

// Operator is the relation that a requirement demands.
type Operator string

// The operators.
const (
	In        Operator = "in" // also "=" and "=="
	NotIn     Operator = "notin"
	Exists    Operator = "exists"
	NotExists Operator = "!"
)

// Requirement is one condition of a selector.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string // sorted, for In and NotIn
}

// Selector is a conjunction of requirements. The zero value matches everything.
type Selector []Requirement

// Matches tells whether the labels satisfy every requirement.
func (s Selector) Matches(labels Set) bool {
	for _, r := range s {
		v, has := labels[r.Key]
		ok := false
		switch r.Operator {
		case In:
			ok = has && slices.Contains(r.Values, v)
		case NotIn:
			ok = !has || !slices.Contains(r.Values, v)
		case Exists:
			ok = has
		case NotExists:
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}

// String is the selector in canonical syntax: Parse gives it back.
func (s Selector) String() string {
	var parts []string
	for _, r := range s {
		switch {
		case r.Operator == Exists:
			parts = append(parts, r.Key)
		case r.Operator == NotExists:
			parts = append(parts, "!"+r.Key)
		case r.Operator == In && len(r.Values) == 1:
			parts = append(parts, r.Key+"="+r.Values[0])
		case r.Operator == NotIn && len(r.Values) == 1:
			parts = append(parts, r.Key+"!="+r.Values[0])
		default:
			parts = append(parts, r.Key+" "+string(r.Operator)+" ("+strings.Join(r.Values, ",")+")")
		}
	}
	return strings.Join(parts, ",")
}

// Parse reads a selector. An error says at which character it stopped making sense.
func Parse(s string) (Selector, error) {
	p := parser{text: s}
	p.space()
	if p.done() {
		return nil, nil
	}
	var out Selector
	for {
		r, err := p.requirement()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
		p.space()
		if p.done() {
			return out, nil
		}
		if !p.take(",") {
			return nil, p.fail("expected ','")
		}
	}
}

type parser struct {
	text string
	at   int
}

func (p *parser) done() bool { return p.at >= len(p.text) }

func (p *parser) space() {
	for !p.done() && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
}

func (p *parser) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) word() string {
	from := p.at
	for !p.done() && !strings.ContainsRune(" \t,=!()", rune(p.text[p.at])) {
		p.at++
	}
	return p.text[from:p.at]
}

func (p *parser) fail(what string) error {
	return fault.New(fault.Invalid, "selector_invalid", "selector %q is wrong at character %d: %s", p.text, p.at+1, what).
		WithHint("for example: env=prod,role in (db,web),!spot")
}

func (p *parser) requirement() (Requirement, error) {
	p.space()
	negated := p.take("!")
	p.space()
	from := p.at
	key := p.word()
	if !validKey(key) {
		p.at = from
		return Requirement{}, p.fail("expected a label key")
	}
	p.space()
	if negated {
		return Requirement{Key: key, Operator: NotExists}, nil
	}
	switch {
	case p.done() || p.text[p.at] == ',':
		return Requirement{Key: key, Operator: Exists}, nil
	case p.take("!="):
		return p.single(key, NotIn)
	case p.take("=="), p.take("="):
		return p.single(key, In)
	}
	from = p.at
	switch p.word() {
	case "in":
		return p.list(key, In)
	case "notin":
		return p.list(key, NotIn)
	}
	p.at = from
	return Requirement{}, p.fail("expected =, !=, in or notin")
}

func (p *parser) single(key string, op Operator) (Requirement, error) {
	v, err := p.value()
	return Requirement{Key: key, Operator: op, Values: []string{v}}, err
}

func (p *parser) value() (string, error) {
	p.space()
	from := p.at
	v := p.word()
	if !validValue(v) {
		p.at = from
		return "", p.fail("expected a label value")
	}
	return v, nil
}

func (p *parser) list(key string, op Operator) (Requirement, error) {
	p.space()
	if !p.take("(") {
		return Requirement{}, p.fail("expected '('")
	}
	r := Requirement{Key: key, Operator: op}
	for {
		v, err := p.value()
		if err != nil {
			return r, err
		}
		r.Values = append(r.Values, v)
		p.space()
		if p.take(")") {
			break
		}
		if !p.take(",") {
			return r, p.fail("expected ',' or ')'")
		}
	}
	slices.SortFunc(r.Values, cmp.Compare[string])
	r.Values = slices.Compact(r.Values)
	return r, nil
}
