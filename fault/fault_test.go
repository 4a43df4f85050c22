package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The exit codes are part of the public surface.
func TestExitCodes(t *testing.T) {
	for kind, want := range map[Kind]int{
		Invalid: 2, Unauthenticated: 3, Denied: 4, NotFound: 5, Exists: 6, Conflict: 6, Precondition: 6,
		Unavailable: 7, Timeout: 7, Exhausted: 7, Internal: 1, Canceled: 1,
	} {
		if got := kind.ExitCode(); got != want {
			t.Errorf("%s: got %d, want %d", kind, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	known := New(NotFound, "gone", "it is gone")
	for _, c := range []struct {
		err  error
		kind Kind
	}{
		{nil, ""}, {known, NotFound}, {fmt.Errorf("looking: %w", known), NotFound}, {errors.New("boom"), Internal},
		{fmt.Errorf("x: %w", context.Canceled), Canceled}, {context.DeadlineExceeded, Timeout},
	} {
		if got := KindOf(c.err); got != c.kind {
			t.Errorf("%v: got %q, want %q", c.err, got, c.kind)
		}
	}
}

// An error that crossed the wire equals the one that was sent, by its code.
func TestErrorsCompareByCode(t *testing.T) {
	sent := New(Denied, "token_network", "not from here")
	received := New(Denied, "token_network", "another wording").WithHint("go home").WithRetryAfter(time.Second)
	if !errors.Is(received, sent) || errors.Is(received, New(Denied, "other", "")) {
		t.Error("codes do not decide")
	}
}

func TestAddingToAnErrorLeavesItAlone(t *testing.T) {
	base := New(Invalid, "x", "wrong")
	cause := errors.New("disk")
	more := base.WithHint("do %d", 1).WithCause(cause)
	if base.Hint != "" || base.Unwrap() != nil || more.Hint != "do 1" || !errors.Is(more, cause) || more.Error() != "wrong: disk" {
		t.Errorf("base %+v, more %+v", base, more)
	}
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	var c Check
	c.That(true, "a", "is fine")
	c.That(false, "b", "is %d", 2)
	c.Add("c", "is wrong")
	if err := c.Err("request_invalid", "the request is not valid"); err == nil || err.Error() != "the request is not valid: b is 2; c is wrong" {
		t.Errorf("got %v", err)
	}
	if err := (&Check{}).Err("x", "x"); err != nil {
		t.Errorf("nothing was wrong, got %v", err)
	}
}

func TestViolationsSayLengthsOfTimeAsPeopleTypeThem(t *testing.T) {
	var c Check
	c.That(false, "ttl", "is %s; allowed are %s to %s", 900*24*time.Hour, 90*time.Second, 36*time.Hour)
	if got, want := c.Err("x", "not valid").Error(), "is 900d; allowed are 1m30s to 36h"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

func TestALengthOfTimeIsSaidAboutAsPreciselyAsItMatters(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 90*time.Second + time.Millisecond: "1m30s", 26*time.Hour + 5*time.Minute + 31*time.Second: "26h6m",
		8760*time.Hour + 15*time.Second: "365d", -8759*time.Hour - 59*time.Minute: "-365d", -3 * time.Second: "-3s",
	} {
		if got := Roughly(d); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}
