package limit_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/limit"
)

func codeOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Code
	}
	return fmt.Sprint(err)
}

func TestASourceThatProvesNothingUsesItsCreditUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused int
		l := limit.New(limit.Options{SourceRate: 2, Refused: func(string) { refused++ }})
		bad, near, far := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff"), netip.MustParseAddr("2001:db8:0:1::1")
		for i := range 20 {
			if err := l.Take(bad); err != nil {
				t.Fatalf("request %d: %v, want ten seconds' worth", i, err)
			}
		}
		err := l.Take(bad)
		if f := fault.Of(err); codeOf(err) != "rate_limited" || f.Kind != fault.Exhausted || f.RetryAfter != time.Second || f.Hint == "" {
			t.Errorf("got %#v, want rate_limited with a hint and when to come back", err)
		}
		if codeOf(l.Take(near)) != "rate_limited" {
			t.Error("another address of the same /64 has credit of its own")
		}
		if err := l.Take(far); err != nil {
			t.Errorf("another /64: %v", err)
		}
		if codeOf(l.Admit(near, "key")) != "rate_limited" {
			t.Error("a credential nobody knows is looked at though the credit is gone")
		}
		l.Proven("key")
		if err := l.Admit(near, "key"); err != nil {
			t.Errorf("one who proved itself: %v", err)
		}
		if refused != 3 {
			t.Errorf("got %d refusals, want 3", refused)
		}
		time.Sleep(time.Second)
		if err := l.Take(bad); err != nil {
			t.Errorf("a second later: %v", err)
		}
		time.Sleep(10 * time.Minute)
		for range 20 {
			l.Charge(near)
		}
		if codeOf(l.Admit(near, "key")) != "rate_limited" {
			t.Error("a proof is good for ever")
		}
	})
}

func TestACallerIsHeldToItsRateAndOthersAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Options{CallerRate: 10})
		count := func(caller string) (n int) {
			for {
				end, err := l.Begin(t.Context(), caller, false)
				if err != nil {
					if codeOf(err) != "rate_limited" {
						t.Fatal(err)
					}
					return n
				}
				end()
				n++
			}
		}
		if got := count("a"); got != 20 {
			t.Errorf("got %d calls at once, want 20", got)
		}
		if got := count("b"); got != 20 {
			t.Errorf("another caller got %d, want 20", got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := count("a"); got != 5 {
			t.Errorf("half a second later got %d, want 5", got)
		}
	})
}

// A clock that was a year ahead and was set back must neither lock callers out nor let them off.
func TestAClockThatIsSetBackLocksNobodyOut(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	l := limit.New(limit.Options{SourceRate: 1, Clock: func() time.Time { return now }})
	from := netip.MustParseAddr("192.0.2.1")
	for l.Take(from) == nil {
	}
	now = now.AddDate(-1, 0, 0)
	if codeOf(l.Take(from)) != "rate_limited" {
		t.Error("setting the clock back gave credit")
	}
	now = now.Add(3 * time.Second)
	if err := l.Take(from); err != nil {
		t.Errorf("three seconds later: %v", err)
	}
}

// One caller has every place and a long line; another with single calls waits for one call, not for the line.
func TestLinesAreServedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Options{Calls: 4})
		const each = 100 * time.Millisecond
		var all sync.WaitGroup
		for range 4 + 40 {
			all.Go(func() {
				end, err := l.Begin(t.Context(), "busy", false)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(each)
				end()
			})
		}
		synctest.Wait()
		began := time.Now()
		end, err := l.Begin(t.Context(), "single", false)
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > each {
			t.Errorf("waited %s behind somebody else's line, want at most the %s of one call", waited, each)
		}
		end()
		all.Wait()
		if calls, waiting, streams := l.Load(); calls+waiting+streams != 0 {
			t.Errorf("%d calls, %d waiting, %d streams after all ended", calls, waiting, streams)
		}
	})
}

func TestAShareKeepsPlacesForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Options{Calls: 4, CallerCalls: 3})
		var ends []func()
		for range 3 {
			end, err := l.Begin(t.Context(), "stuck", false)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		began := time.Now()
		if _, err := l.Begin(t.Context(), "stuck", false); codeOf(err) != "overloaded" || fault.Of(err).RetryAfter == 0 {
			t.Errorf("got %v, want overloaded and when to come back", err)
		}
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("it waited %s, want 5s", waited)
		}
		end, err := l.Begin(t.Context(), "other", false)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range append(ends, end) {
			end()
		}
	})
}

func TestWhatDoesNotFitTheLineIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Options{Calls: 1})
		end, err := l.Begin(t.Context(), "a", false)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if _, err := l.Begin(ctx, "a", false); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want that it was cancelled", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if _, err := l.Begin(ctx, "a", false); codeOf(err) != "overloaded" || time.Since(began) != 0 {
			t.Errorf("got %v after %s, want overloaded at once", err, time.Since(began))
		}
		cancel()
		all.Wait()
		end()
		if calls, waiting, _ := l.Load(); calls+waiting != 0 {
			t.Errorf("%d calls and %d waiting are left", calls, waiting)
		}
	})
}

func TestStreamsAreCountedByCaller(t *testing.T) {
	l := limit.New(limit.Options{Streams: 3, CallerStreams: 2, Calls: 1})
	var ends []func()
	for range 2 {
		end, err := l.Begin(t.Context(), "a", true)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, err := l.Begin(t.Context(), "a", true); codeOf(err) != "streams_exhausted" {
		t.Errorf("got %v, want streams_exhausted", err)
	}
	if end, err := l.Begin(t.Context(), "a", false); err != nil {
		t.Errorf("a call beside the streams: %v", err)
	} else {
		end()
	}
	end, err := l.Begin(t.Context(), "b", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin(t.Context(), "c", true); codeOf(err) != "streams_exhausted" {
		t.Errorf("beyond the streams of all: got %v", err)
	}
	for _, end := range append(ends, end) {
		end()
	}
	if _, err := l.Begin(t.Context(), "a", true); err != nil {
		t.Error(err)
	}
}

// Places are neither lost nor made, whatever happens at once.
func TestPlacesAddUpUnderLoad(t *testing.T) {
	l := limit.New(limit.Options{Calls: 5, CallerCalls: 3, Patience: 2 * time.Millisecond})
	var mu sync.Mutex
	running, most := 0, 0
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			for range 50 {
				end, err := l.Begin(t.Context(), fmt.Sprint(i%7), false)
				if err != nil {
					continue
				}
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				mu.Lock()
				running--
				mu.Unlock()
				end()
			}
		})
	}
	all.Wait()
	if calls, waiting, _ := l.Load(); calls != 0 || waiting != 0 || most > 5 {
		t.Errorf("%d calls, %d waiting, %d at once; want 0, 0, at most 5", calls, waiting, most)
	}
}
