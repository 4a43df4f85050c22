// Package query is the language in which lists are filtered, in the console, on the command line and in the API alike:
//
//	web                                     the name has "web" in it
//	name~web and state in (offline, degraded)
//	not (label.env=prod or version=1.2.3)
//	label.role=db label.zone!=a             terms side by side must all hold
//
// A term compares a field with = and != (exactly), ~ and !~ (has it in it, A to Z like a to z), or in (a, b). "not" binds
// before "and", "and" before "or"; parentheses group. A value with spaces or signs in it stands in double quotes, where \
// takes the next character as it is. Labels are fields called label.KEY; a label that is not there equals nothing, so that
// it satisfies != and !~, as it does in Kubernetes.
package query

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/loopbackd/loopback/fault"
)

// Bounds on an expression: what one line of an address bar may ask a database for.
const (
	MaxLength = 4096
	MaxTerms  = 64
	maxDepth  = 32
)

// Label is the beginning of a label's field.
const Label = "label."

// Expression is a condition: And, Or, Not or Term. Nil is none: everything matches.
type Expression interface {
	// Matches tells whether it holds for a thing; field is the value of one of its fields, not ok where it has none.
	Matches(field func(name string) (value string, ok bool)) bool
	// String is text that parses to the same.
	String() string
}

// The kinds of expressions.
type (
	And []Expression // of at least two
	Or  []Expression // of at least two
	Not struct{ Expression }

	// Term compares one field.
	Term struct {
		Field    string
		Operator Operator
		Values   []string // one, or those of in
	}
)

// Operator of a term.
type Operator string

// The operators. "!=" and "!~" are Not of a Term.
const (
	Equals   Operator = "="
	Contains Operator = "~"
	In       Operator = "in"
)

// Matches implements Expression.
func (a And) Matches(field func(string) (string, bool)) bool {
	return !slices.ContainsFunc(a, func(e Expression) bool { return !e.Matches(field) })
}

// Matches implements Expression.
func (o Or) Matches(field func(string) (string, bool)) bool {
	return slices.ContainsFunc(o, func(e Expression) bool { return e.Matches(field) })
}

// Matches implements Expression.
func (n Not) Matches(field func(string) (string, bool)) bool { return !n.Expression.Matches(field) }

// Matches implements Expression.
func (t Term) Matches(field func(string) (string, bool)) bool {
	value, ok := field(t.Field)
	switch {
	case !ok:
		return false
	case t.Operator == Contains:
		return strings.Contains(Fold(value), Fold(t.Values[0]))
	default:
		return slices.Contains(t.Values, value)
	}
}

// Fold makes A to Z small and leaves all else: what both databases do alike.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func (a And) String() string { return join(a, " and ") }
func (o Or) String() string  { return join(o, " or ") }
func (n Not) String() string { return "not " + group(n.Expression) }

func (t Term) String() string {
	if t.Operator == In {
		quoted := make([]string, len(t.Values))
		for i, v := range t.Values {
			quoted[i] = quote(v)
		}
		return t.Field + " in (" + strings.Join(quoted, ", ") + ")"
	}
	return t.Field + string(t.Operator) + quote(t.Values[0])
}

func join(all []Expression, word string) string {
	out := make([]string, len(all))
	for i, e := range all {
		out[i] = group(e)
	}
	return strings.Join(out, word)
}

func group(e Expression) string {
	switch e.(type) {
	case And, Or:
		return "(" + e.String() + ")"
	}
	return e.String()
}

func quote(v string) string {
	if v != "" && !strings.ContainsFunc(v, special) {
		return v
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
}

// special characters end a bare word.
func special(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`()",=!~\`, r) }

// Parse reads an expression. fields are those that a term may name besides labels; the first is meant where none is named.
// Text of nothing but space is nil.
func Parse(text string, fields ...string) (Expression, error) {
	if len(text) > MaxLength {
		return nil, invalid("it is %d bytes long; at most %d are allowed", len(text), MaxLength)
	}
	p := &parser{text: text, fields: fields}
	if p.space(); p.done() {
		return nil, nil
	}
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.space(); !p.done() {
		return nil, p.fail("a closing parenthesis has no opening one")
	}
	return e, nil
}

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "query_invalid", "the query cannot be read: "+format, args...).
		WithHint(`write it like: web and state in (offline, degraded) and not label.env=prod`)
}

type parser struct {
	text   string
	at     int
	terms  int
	fields []string
}

func (p *parser) done() bool { return p.at >= len(p.text) }

func (p *parser) fail(format string, args ...any) error {
	return invalid(format+", at character "+strconv.Itoa(len([]rune(p.text[:min(p.at, len(p.text))]))+1), args...)
}

func (p *parser) space() {
	p.at += len(p.text[p.at:]) - len(strings.TrimLeftFunc(p.text[p.at:], unicode.IsSpace))
}

// take consumes a sign, where it comes next.
func (p *parser) take(sign string) bool {
	p.space()
	if strings.HasPrefix(p.text[p.at:], sign) {
		p.at += len(sign)
		return true
	}
	return false
}

// keyword consumes a word, where it comes next as a whole one.
func (p *parser) keyword(word string) bool {
	p.space()
	rest := p.text[p.at:]
	if len(rest) < len(word) || !strings.EqualFold(rest[:len(word)], word) {
		return false
	}
	if after := rest[len(word):]; after != "" && !unicode.IsSpace(rune(after[0])) && after[0] != '(' {
		return false
	}
	p.at += len(word)
	return true
}

func (p *parser) or(depth int) (Expression, error) {
	var all Or
	for {
		e, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		if all = append(all, e); !p.keyword("or") {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

func (p *parser) and(depth int) (Expression, error) {
	var all And
	for {
		e, err := p.not(depth)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if p.keyword("and") {
			continue
		}
		// Terms side by side.
		before := p.at
		if p.space(); p.done() || p.text[p.at] == ')' || p.keyword("or") {
			p.at = before
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

func (p *parser) not(depth int) (Expression, error) {
	if depth > maxDepth {
		return nil, p.fail("it is nested too deeply")
	}
	switch {
	case p.keyword("not"):
		e, err := p.not(depth + 1)
		if err != nil {
			return nil, err
		}
		return Not{e}, nil
	case p.take("("):
		e, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.take(")") {
			return nil, p.fail("a parenthesis is not closed")
		}
		return e, nil
	}
	return p.term()
}

func (p *parser) term() (Expression, error) {
	if p.terms++; p.terms > MaxTerms {
		return nil, p.fail("it has more than %d terms", MaxTerms)
	}
	begin := p.at
	p.space()
	quoted := !p.done() && p.text[p.at] == '"'
	word, err := p.value()
	if err != nil {
		return nil, err
	}
	field := word
	var negated bool
	var operator Operator
	switch {
	case quoted:
	case p.take("!="):
		operator, negated = Equals, true
	case p.take("!~"):
		operator, negated = Contains, true
	case p.take("=="), p.take("="):
		operator = Equals
	case p.take("~"):
		operator = Contains
	case p.keyword("in"):
		operator = In
	}
	if operator == "" { // a bare word
		return Term{p.fields[0], Contains, []string{word}}, nil
	}
	if label, ok := strings.CutPrefix(field, Label); !slices.Contains(p.fields, field) && (!ok || label == "") {
		p.at = begin
		return nil, p.fail("there is no field %q; there are: %s, label.KEY", field, strings.Join(p.fields, ", "))
	}
	t := Term{Field: field, Operator: operator}
	if operator == In {
		t.Values, err = p.list()
	} else {
		var v string
		v, err = p.value()
		t.Values = []string{v}
	}
	if err != nil {
		return nil, err
	}
	if negated {
		return Not{t}, nil
	}
	return t, nil
}

func (p *parser) list() ([]string, error) {
	if !p.take("(") {
		return nil, p.fail("after in come values in parentheses")
	}
	var all []string
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if all = append(all, v); len(all) > MaxTerms {
			return nil, p.fail("it names more than %d values", MaxTerms)
		}
		switch {
		case p.take(","):
		case p.take(")"):
			return all, nil
		default:
			return nil, p.fail("a parenthesis is not closed")
		}
	}
}

// value is a bare word or what stands in quotes.
func (p *parser) value() (string, error) {
	p.space()
	rest := p.text[p.at:]
	if !strings.HasPrefix(rest, `"`) {
		end := strings.IndexFunc(rest, special)
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			return "", p.fail("a name or a value is missing")
		}
		p.at += end
		return rest[:end], nil
	}
	var out strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '"':
			p.at += i + 1
			return out.String(), nil
		case c == '\\' && i+1 < len(rest):
			i++
			out.WriteByte(rest[i])
		default:
			out.WriteByte(c)
		}
	}
	return "", p.fail("a quotation is not closed")
}
