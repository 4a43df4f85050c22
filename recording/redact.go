package recording

import (
	"bytes"
	"iter"
	"time"
)

// Pattern is what a kind of secret looks like: it begins with Prefix and goes on for at least Min, and as far as there are,
// bytes of Class.
type Pattern struct {
	Name   string
	Prefix string
	Class  func(byte) bool
	Min    int
	Until  string // where it ends, in place of the end of Class; that too is taken out
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func wordlike(c byte) bool { return alnum(c) || c == '_' || c == '-' }

func secretlike(c byte) bool { return wordlike(c) || c == '.' || c == '/' || c == '+' || c == '=' }

func whatever(byte) bool { return true }

// Patterns are the secrets that are known by how they look.
var Patterns = []Pattern{
	{Name: "enrolment token", Prefix: "lbt_", Class: wordlike, Min: 20},
	{Name: "api key", Prefix: "lbk_", Class: wordlike, Min: 20},
	{Name: "guest link", Prefix: "lbg_", Class: wordlike, Min: 20},
	{Name: "aws key id", Prefix: "AKIA", Class: alnum, Min: 16},
	{Name: "github token", Prefix: "ghp_", Class: alnum, Min: 30},
	{Name: "github token", Prefix: "github_pat_", Class: wordlike, Min: 30},
	{Name: "gitlab token", Prefix: "glpat-", Class: wordlike, Min: 20},
	{Name: "slack token", Prefix: "xoxb-", Class: wordlike, Min: 20},
	{Name: "json web token", Prefix: "eyJ", Class: secretlike, Min: 40},
	{Name: "bearer", Prefix: "Authorization: Bearer ", Class: secretlike, Min: 8},
	{Name: "private key", Prefix: "-----BEGIN ", Class: whatever, Min: 0, Until: "PRIVATE KEY-----"},
}

// maxHeld bounds how much is held back while it may yet turn out to be a secret.
const maxHeld = 4 << 10

// Redactor takes secrets out of a stream of output, across the borders of events and chunks. What may be the beginning of a
// secret is held back until that is decided: it comes out with the event that decides it, at that event's time.
//
// It knows what secrets look like, not what they are: it lessens harm and promises nothing. A terminal may show a secret in
// pieces (typed with corrections, wrapped by a program's own cursor moves) that no pattern matches.
type Redactor struct {
	patterns []Pattern
	first    [256]bool // bytes with which a pattern begins
	held     []byte    // may be a secret's beginning
	inside   *Pattern  // a secret is being taken out: it goes on
	tail     []byte    // of that, to find Until in
}

// NewRedactor makes one for Patterns.
func NewRedactor() *Redactor {
	r := &Redactor{patterns: Patterns}
	for _, p := range r.patterns {
		r.first[p.Prefix[0]] = true
	}
	return r
}

// Add is what may be shown after more was seen; last says that nothing follows.
func (r *Redactor) Add(b []byte, last bool) []byte {
	in := append(r.held, b...)
	r.held = nil
	var out []byte
	for i := 0; i < len(in); {
		if r.inside != nil {
			i += r.swallow(in[i:])
			continue
		}
		if !r.first[in[i]] {
			next := i + 1
			for next < len(in) && !r.first[in[next]] {
				next++
			}
			out = append(out, in[i:next]...)
			i = next
			continue
		}
		p, n, undecided := r.match(in[i:])
		switch {
		case p != nil:
			out = append(out, "["+p.Name+" redacted]"...)
			i += n
			r.inside, r.tail = p, nil
		case undecided && !last && len(in)-i <= maxHeld:
			r.held = append([]byte(nil), in[i:]...)
			return out
		default:
			out = append(out, in[i])
			i++
		}
	}
	return out
}

// match finds the pattern that b begins with, and how long it is so far.
func (r *Redactor) match(b []byte) (found *Pattern, n int, undecided bool) {
	for i := range r.patterns {
		p := &r.patterns[i]
		if len(b) < len(p.Prefix) {
			undecided = undecided || bytes.HasPrefix([]byte(p.Prefix), b)
			continue
		}
		if string(b[:len(p.Prefix)]) != p.Prefix {
			continue
		}
		n := len(p.Prefix)
		if p.Until != "" { // what kind of thing it is says its first line
			line := bytes.IndexByte(b, '\n')
			head := b
			if line >= 0 {
				head = b[:line]
			}
			if at := bytes.Index(head, []byte(p.Until)); at >= 0 {
				return p, at + len(p.Until), false
			}
			undecided = undecided || line < 0 && len(b) < 128
			continue
		}
		for n < len(b) && p.Class(b[n]) {
			n++
		}
		if n-len(p.Prefix) >= p.Min {
			return p, n, false
		}
		undecided = undecided || n == len(b)
	}
	return nil, 0, undecided
}

// swallow is how much of b belongs to the secret that is being taken out.
func (r *Redactor) swallow(b []byte) int {
	p := r.inside
	if p.Until == "" {
		n := 0
		for n < len(b) && p.Class(b[n]) {
			n++
		}
		if n < len(b) {
			r.inside = nil
		}
		return n
	}
	joined := append(r.tail, b...)
	at := bytes.Index(joined, []byte(p.Until))
	if at < 0 {
		keep := min(len(joined), len(p.Until)-1)
		r.tail = append([]byte(nil), joined[len(joined)-keep:]...)
		return len(b)
	}
	n := at + len(p.Until) - len(r.tail)
	r.inside, r.tail = nil, nil
	return n
}

// Redact takes secrets out of output and input.
func Redact(events iter.Seq2[Event, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		type stream struct {
			kind Kind
			*Redactor
		}
		streams := []stream{{Output, NewRedactor()}, {Input, NewRedactor()}}
		var last time.Duration
		rest := func() bool { // nothing follows
			for _, s := range streams {
				if b := s.Add(nil, true); len(b) > 0 && !yield(Event{At: last, Kind: s.kind, Data: b}, nil) {
					return false
				}
			}
			return true
		}
		for e, err := range events {
			if err != nil {
				yield(e, err)
				return
			}
			last = e.At
			for _, s := range streams {
				if s.kind == e.Kind {
					e.Data = s.Add(e.Data, false)
				}
			}
			if e.Kind == Exit && !rest() {
				return
			}
			if len(e.Data) > 0 && !yield(e, nil) {
				return
			}
		}
		rest()
	}
}
