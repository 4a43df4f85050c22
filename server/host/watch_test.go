package host_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/host"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/test/plane"
)

// watching collects what a watcher is told, in words.
type watching struct {
	t     *testing.T
	heard chan string
}

func watch(t *testing.T, p *plane.Plane, ctx context.Context, q host.WatchQuery) watching {
	t.Helper()
	w := watching{t, make(chan string, 10_000)}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait() })
	done.Go(func() {
		err := p.Hosts.Watch(ctx, q, func(e host.Event) error {
			w.heard <- words(e)
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return w
}

func words(e host.Event) string {
	switch {
	case e.Synced:
		return "synced"
	case e.Reset:
		return "reset"
	case e.Changed.Gone:
		return fmt.Sprintf("%s gone, was %s", e.Changed.Name, e.Changed.Previous)
	case e.Changed.Previous == "":
		return fmt.Sprintf("%s %s", e.Changed.Name, e.Changed.State)
	default:
		return fmt.Sprintf("%s %s from %s", e.Changed.Name, e.Changed.State, e.Changed.Previous)
	}
}

func (w watching) hears(want ...string) {
	w.t.Helper()
	var got []string
	late := time.After(10 * time.Second)
	for len(got) < len(want) {
		select {
		case s := <-w.heard:
			got = append(got, s)
		case <-late:
			w.t.Fatalf("heard %q, want %q", got, want)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("heard %q, want %q", got, want)
	}
}

func (w watching) hearsNothing() {
	w.t.Helper()
	select {
	case s := <-w.heard:
		w.t.Errorf("heard %q, want nothing", s)
	default:
	}
}

func TestWatching(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	enrolled(t, p, tokens.Request{}, "b", "a")
	p.Run(t)
	all := watch(t, p, ctx, host.WatchQuery{})
	prod := watch(t, p, plane.As(t.Context(), "prod", p.Workspace.Scope(), noun.Read), host.WatchQuery{})
	lab := watch(t, p, plane.As(t.Context(), "lab", p.Other.Scope(), noun.Read), host.WatchQuery{})
	web := watch(t, p, ctx, host.WatchQuery{Selector: label.Selector{{Key: "role", Operator: label.In, Values: []string{"web"}}}})
	changes := watch(t, p, ctx, host.WatchQuery{Workspace: "prod", Hosts: []string{"b"}, ChangesOnly: true})
	all.hears("a enrolling", "b enrolling", "synced")
	prod.hears("a enrolling", "b enrolling", "synced")
	lab.hears("synced")
	web.hears("synced")
	changes.hears("synced")

	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.Hosts.Label(ctx, ref("a"), label.Set{"role": "web"}, nil, 0))
	all.hears("a enrolling from enrolling")
	prod.hears("a enrolling from enrolling")
	web.hears("a enrolling")
	must(p.Hosts.Quarantine(ctx, ref("a"), "", ""))
	all.hears("a quarantined from enrolling")
	prod.hears("a quarantined from enrolling")
	web.hears("a quarantined from enrolling")
	must(p.Hosts.Move(ctx, ref("a"), "lab", ""))
	all.hears("a quarantined from quarantined")
	prod.hears("a gone, was quarantined") // and not a word of where it went
	lab.hears("a quarantined")
	web.hears("a quarantined from quarantined")
	must(p.Hosts.Label(ctx, ref("a"), nil, []string{"role"}, 0))
	all.hears("a quarantined from quarantined")
	lab.hears("a quarantined from quarantined")
	web.hears("a gone, was quarantined")
	must(p.Hosts.Remove(ctx, ref("b"), "", ""))
	all.hears("b removed from enrolling")
	prod.hears("b removed from enrolling")
	changes.hears("b removed from enrolling")
	for _, w := range []watching{all, prod, lab, web, changes} {
		w.hearsNothing()
	}
}

// TestAWatcherThatDoesNotReadHoldsNobodyUp stops reading while far more happens than is remembered.
func TestAWatcherThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	p := plane.New(t)
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	ctx, cancel := context.WithCancel(plane.AsAdmin(t.Context()))
	defer cancel()
	reading := make(chan struct{})
	heard := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		first := true
		ended <- p.Hosts.Watch(ctx, host.WatchQuery{}, func(e host.Event) error {
			heard <- words(e)
			if e.Synced && first {
				first = false
				<-reading
			}
			return nil
		})
	}()
	(watching{t, heard}).hears("a enrolling", "synced")
	h, err := p.DB.View().Host(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 { // more than the log holds
		h.Revision++
		p.Fleet.Learn(t.Context(), h)
	}
	close(reading)
	(watching{t, heard}).hears("reset", "a enrolling", "synced")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestThousandsOfWatchers(t *testing.T) {
	watchers := 2000
	if testing.Short() {
		watchers = 200
	}
	p := plane.New(t)
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	ctx, cancel := context.WithCancel(plane.AsAdmin(t.Context()))
	defer cancel()
	var synced, done sync.WaitGroup
	saw := make(chan struct{}, watchers)
	synced.Add(watchers)
	const changes = 100
	for range watchers {
		done.Go(func() {
			seen := 0
			_ = p.Hosts.Watch(ctx, host.WatchQuery{}, func(e host.Event) error { // ends when the test says so
				if e.Synced {
					synced.Done()
				}
				if e.Changed != nil && e.Changed.Revision > 0 {
					if seen++; seen == changes+1 {
						saw <- struct{}{}
					}
				}
				return nil
			})
		})
	}
	synced.Wait()
	h, err := p.DB.View().Host(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range changes {
		h.Revision++
		p.Fleet.Learn(t.Context(), h)
	}
	written := time.Since(began)
	for range watchers {
		<-saw
	}
	t.Logf("%d changes taken in after %s, seen by %d watchers after %s", changes, written, watchers, time.Since(began))
	cancel()
	done.Wait()
}
