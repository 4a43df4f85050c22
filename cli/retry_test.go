package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// What a limit refused was not begun, so even a change is sent again; the pace is the control plane's.
func TestRefusedCallsAreMadeAgainAtTheControlPlanesPace(t *testing.T) {
	limited := fault.New(fault.Exhausted, "rate_limited", "too many calls").WithRetryAfter(150 * time.Millisecond)
	for _, words := range []string{"host list", "token mint"} {
		p := new(controlPlane).start(t)
		p.failWith, p.failTimes = limited, 2
		began := time.Now()
		r := sit(t, p).run(strings.Fields(words)...)
		if took := time.Since(began); r.code != 0 || took < 300*time.Millisecond {
			t.Errorf("%s: got %+v after %s, want success after two waits", words, r, took)
		}
		if strings.Count(r.err, "trying again in") != 2 {
			t.Errorf("%s: nobody was told of the waits: %q", words, r.err)
		}
	}
}

func TestOnlyWhatChangesNothingIsRepeatedAfterAFailure(t *testing.T) {
	away := fault.New(fault.Unavailable, "database_unreachable", "the database is away").WithRetryAfter(10 * time.Millisecond)
	p := new(controlPlane).start(t)
	p.failWith, p.failTimes = away, 1
	if r := sit(t, p).run("host", "list"); r.code != 0 {
		t.Errorf("a list: got %+v, want success at the second try", r)
	}
	p.failWith, p.failTimes = away, 1
	if r := sit(t, p).run("token", "mint"); r.code != 7 {
		t.Errorf("a change: got %+v, want the failure: it may have happened", r)
	}
}

func TestRepeatingEnds(t *testing.T) {
	p := new(controlPlane).start(t)
	p.failWith = fault.New(fault.Unavailable, "overloaded", "too much").WithRetryAfter(5 * time.Millisecond)
	x := sit(t, p)
	if r := x.run("host", "list"); r.code != 7 || len(p.calls) != 6 {
		t.Errorf("got %+v after %d calls, want code 7 after 6", r, len(p.calls))
	}
	p.failWith = fault.New(fault.Exhausted, "rate_limited", "too many calls").WithRetryAfter(time.Hour)
	began := time.Now()
	if r := x.run("host", "list", "--verbose"); r.code != 7 || time.Since(began) > 10*time.Second ||
		!strings.Contains(r.err, "code: rate_limited\nrequest: req_fake\n") {
		t.Errorf("got %+v, want the refusal at once, with code and request, where the wait is past the deadline", r)
	}
}
