package change_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/change"
	"github.com/loopbackd/loopback/server/feed"
)

// source is a feed in memory.
type source struct {
	mu    sync.Mutex
	list  []feed.Change
	nudge chan struct{}
}

func (s *source) Position(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.list)), nil
}

func (s *source) Changes(_ context.Context, after int64, limit int) ([]feed.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.list[after:]
	return rest[:min(limit, len(rest))], nil
}
func (s *source) Nudges() (<-chan struct{}, func()) { return s.nudge, func() {} }

func (s *source) add(kind feed.Kind, at access.Scope) {
	s.mu.Lock()
	s.list = append(s.list, feed.Change{Position: int64(len(s.list)) + 1, Kind: kind, Scope: at})
	s.mu.Unlock()
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

var (
	acme  = access.Scope{Organisation: "org_a", Project: "prj_a", Workspace: "ws_a"}
	other = access.Scope{Organisation: "org_b", Project: "prj_b", Workspace: "ws_b"}
)

// watching runs a watch in a bubble and hands out what it is told.
func watching(t *testing.T, actor access.Actor, kinds []feed.Kind, do func(s *source, told <-chan change.Told)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(access.WithActor(t.Context(), actor))
		s := &source{nudge: make(chan struct{}, 1)}
		f := feed.NewFollower(feed.Options{Source: s})
		service := change.NewService([]access.Permission{"grants.read", "sinks.read"})
		from := f.Subscribe(0)
		told := make(chan change.Told, 100)
		ended := make(chan error, 1)
		go f.Run(ctx)
		go func() { _ = service.Follow(ctx, from) }()
		synctest.Wait()
		go func() { ended <- service.Watch(ctx, kinds, func(c change.Told) error { told <- c; return nil }) }()
		synctest.Wait()
		if first := <-told; len(first.Kinds) != 0 || first.Access || !first.Synced {
			t.Errorf("the first says %+v, want that it is in sync", first)
		}
		do(s, told)
		cancel()
		if err := <-ended; ctx.Err() == nil || err == nil {
			t.Errorf("the watch ended with %v", err)
		}
	})
}

// holder holds permissions over a scope by a key that no rules stand behind.
func holder(at access.Scope, p ...access.Permission) access.Actor {
	return access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_x", Grants: []access.Grant{{ID: "g", Scope: at, Permissions: p}}})
}

func next(t *testing.T, told <-chan change.Told) []feed.Kind {
	t.Helper()
	synctest.Wait()
	select {
	case c := <-told:
		return c.Kinds
	default:
		return nil
	}
}

func TestACallerHearsOfWhatTheyMayRead(t *testing.T) {
	watching(t, holder(acme, "grants.read"), nil, func(s *source, told <-chan change.Told) {
		s.add(feed.Grant, acme)
		if got := next(t, told); !slices.Equal(got, []feed.Kind{feed.Grant}) {
			t.Errorf("told of %v, want grants", got)
		}
		time.Sleep(time.Second)
		for _, unseen := range []struct {
			kind feed.Kind
			at   access.Scope
		}{{feed.Grant, other}, {feed.Sink, acme}, {feed.Host, acme}} {
			s.add(unseen.kind, unseen.at)
			if got := next(t, told); got != nil {
				t.Errorf("%s at %v: told of %v, want nothing", unseen.kind, unseen.at, got)
			}
		}
	})
}

func TestWhatComesQuicklyIsToldAtOnce(t *testing.T) {
	watching(t, holder(access.Scope{}, access.All), nil, func(s *source, told <-chan change.Told) {
		began := time.Now()
		count := 0
		for range 100 { // a second
			s.add(feed.Grant, acme)
			s.add(feed.Sink, access.Scope{})
			time.Sleep(10 * time.Millisecond)
			for next(t, told) != nil {
				count++
			}
		}
		if took := time.Since(began); count < 2 || count > 7 {
			t.Errorf("told %d times in %s, want at most five a second", count, took)
		}
		time.Sleep(time.Second)
		for next(t, told) != nil {
		}
	})
}

func TestKindsThatWereNotAskedForAreNotTold(t *testing.T) {
	watching(t, holder(access.Scope{}, access.All), []feed.Kind{feed.Sink}, func(s *source, told <-chan change.Told) {
		s.add(feed.Grant, acme)
		if got := next(t, told); got != nil {
			t.Errorf("told of %v, want nothing", got)
		}
		s.add(feed.Sink, acme)
		if got := next(t, told); !slices.Equal(got, []feed.Kind{feed.Sink}) {
			t.Errorf("told of %v, want sinks", got)
		}
	})
}

func TestACallerThatFallsBehindIsToldOfAll(t *testing.T) {
	watching(t, holder(access.Scope{}, access.All), []feed.Kind{feed.Sink, feed.Token}, func(s *source, told <-chan change.Told) {
		s.add(feed.Sink, acme)
		if got := next(t, told); !slices.Equal(got, []feed.Kind{feed.Sink}) {
			t.Fatalf("told of %v, want sinks", got)
		}
		// They rest now. No time passes before all of this has come for them.
		for i := range 2000 {
			s.add(feed.Sink, access.Scope{Organisation: "org", Project: "prj", Workspace: time.Duration(i).String()})
		}
		synctest.Wait()
		time.Sleep(time.Second)
		heard := next(t, told)
		if !slices.Contains(heard, feed.Token) {
			t.Errorf("told of %v, want tokens as well", heard)
		}
	})
}

func TestWrongKindsAndStrangersAreRefused(t *testing.T) {
	service := change.NewService(nil)
	send := func(change.Told) error { return nil }
	if err := service.Watch(access.WithActor(t.Context(), holder(acme, access.All)), []feed.Kind{"moon"}, send); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an unknown kind: %v, want it refused", err)
	}
	if err := service.Watch(t.Context(), nil, send); fault.KindOf(err) != fault.Unauthenticated {
		t.Errorf("nobody: %v, want them refused", err)
	}
}
