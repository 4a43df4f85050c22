// Package fault names the few ways in which a call can fail.
//
// Every error that a caller is meant to act on is an *Error: a Kind that programs decide on, a stable Code that
// scripts and documentation refer to, a Message for people (lower case, one line, saying what was wrong) and,
// where one is known, a Hint that says what to do next. Errors that are not an *Error are Internal: their text is
// logged on the side where they happened and never crosses the wire.
//
// The kinds are those of RPC (their names are the ones that Connect and gRPC use) and each has exactly one process
// exit code, so that the server, the agent and the command line tell the same story.
package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind classifies an error by what its receiver can do about it.
type Kind string

// The kinds. Their values are the names of the RPC codes that carry them.
const (
	Invalid         Kind = "invalid_argument"    // the request can never succeed as it stands
	Unauthenticated Kind = "unauthenticated"     // nobody is signed in, or the credential is not valid
	Denied          Kind = "permission_denied"   // somebody is signed in who may not do this
	NotFound        Kind = "not_found"           // it does not exist, or the caller may not know that it does
	Exists          Kind = "already_exists"      // the name or id is taken
	Conflict        Kind = "aborted"             // somebody else changed it first: read it again
	Precondition    Kind = "failed_precondition" // something else has to be done first
	Exhausted       Kind = "resource_exhausted"  // a limit is reached: wait, or raise it
	Unavailable     Kind = "unavailable"         // try again, the request may not have been carried out
	Timeout         Kind = "deadline_exceeded"   // time ran out, the request may have been carried out
	Canceled        Kind = "canceled"            // the caller gave up
	Internal        Kind = "internal"            // a defect of ours
)

// ExitCode is the exit status of a command that ends with an error of this kind.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return 2
	case Unauthenticated:
		return 3
	case Denied:
		return 4
	case NotFound:
		return 5
	case Exists, Conflict, Precondition:
		return 6
	case Unavailable, Timeout, Exhausted:
		return 7
	default:
		return 1
	}
}

// Violation is one field of a request that is wrong.
type Violation struct {
	Field   string // path in the request as JSON names it: "ttl", "labels[0].key"
	Message string // lower case, what is wrong with it
}

// Error is a failure that its receiver is meant to act on.
type Error struct {
	Kind       Kind
	Code       string // stable, snake case, noun first: "token_expired"
	Message    string
	Hint       string        // what to do next; empty where none is known
	RetryAfter time.Duration // when to try again; 0 where that is unknown
	Violations []Violation
	cause      error
}

// New makes an error. The message is formatted as by fmt.Sprintf.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithCause returns a copy of e that wraps the error that led to it. The cause is for logs on this side: it does not
// cross the wire.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// WithRetryAfter returns a copy of e that says when to try again.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Error returns the message, and the cause where there is one.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for i, v := range e.Violations {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(v.Field + " " + v.Message)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is match errors of the same code, so that an error which crossed the wire equals the one that was
// sent.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Of finds the *Error in err's chain. Any other error, nil apart, becomes one: a context's end is Canceled or
// Timeout, the rest is Internal with the original as its cause.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return New(Canceled, "canceled", "the request was cancelled").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded):
		return New(Timeout, "timeout", "the request timed out").WithCause(err)
	default:
		return New(Internal, "internal", "internal error").WithCause(err)
	}
}

// KindOf is the kind of err; the empty kind for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	return Of(err).Kind
}

// Check collects the violations of a request, so that its sender sees all of them at once.
type Check struct{ violations []Violation }

// Add notes that a field is wrong.
func (c *Check) Add(field, format string, args ...any) {
	c.violations = append(c.violations, Violation{field, fmt.Sprintf(format, readable(args)...)})
}

// readable writes lengths of time as people type them.
func readable(args []any) []any {
	out := slices.Clone(args)
	for i, a := range out {
		if d, ok := a.(time.Duration); ok {
			out[i] = Span(d)
		}
	}
	return out
}

// Span is a length of time, exact and without the units that say nothing: 36h, 90d, 1m30s.
func Span(d time.Duration) string {
	if day := 24 * time.Hour; d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Roughly is a length of time for a person who wants to know about how long: whole days from two of them on, minutes from
// an hour on, else seconds. 365d, 26h5m, 12s.
func Roughly(d time.Duration) string {
	switch size := d.Abs(); {
	case d < 0:
		return "-" + Roughly(size)
	case size >= 48*time.Hour:
		return Span(size.Round(24 * time.Hour))
	case size >= time.Hour:
		return Span(size.Round(time.Minute))
	default:
		return Span(size.Round(time.Second))
	}
}

// That notes that a field is wrong unless ok.
func (c *Check) That(ok bool, field, format string, args ...any) {
	if !ok {
		c.Add(field, format, args...)
	}
}

// Err is nil where nothing was wrong, else an Invalid error with every violation.
func (c *Check) Err(code, format string, args ...any) error {
	if len(c.violations) == 0 {
		return nil
	}
	e := New(Invalid, code, format, args...)
	e.Violations = c.violations
	return e
}
