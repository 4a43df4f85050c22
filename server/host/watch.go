package host

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
)

// WatchQuery says which hosts to watch.
type WatchQuery struct {
	Workspace   string
	Selector    label.Selector
	Filter      query.Expression // nil: any
	Hosts       []string         // ids or names; empty: all
	ChangesOnly bool             // leave out the hosts as they are at the start
}

// Event is one of what a watcher is told: exactly one of the fields is set.
type Event struct {
	Changed *Changed
	Synced  bool // all hosts as they were at the start have been sent
	Reset   bool // what follows is everything anew
}

// Changed is a host as it is now.
type Changed struct {
	Seen
	Previous host.State // empty where it was not among what is watched before
	Gone     bool       // it is not among what is watched any more; the host is as it was last seen
	At       time.Time
}

// Watch sends the hosts as they are, by name, then every change, until ctx ends or send fails. What the caller may read
// is asked for each change, so a host that moves out of sight leaves with the words in which it was last seen. Where the
// rules change, what went out of sight leaves at once, and what came into it is sent. Hosts in a watch lack what is
// long: disks and addresses of their inventory.
//
// send may block for as long as it likes. A caller that falls so far behind that changes were lost is told (Reset) and
// sent everything anew; nobody else waits.
func (s *Service) Watch(ctx context.Context, q WatchQuery, send func(Event) error) error {
	w, err := s.watcher(ctx, q)
	if err != nil {
		return err
	}
	for anew := false; ; anew = true {
		if anew {
			if err := send(Event{Reset: true}); err != nil {
				return err
			}
		}
		lost, err := s.stream(ctx, w, q.ChangesOnly && !anew, send)
		if err != nil || !lost {
			return err
		}
	}
}

// watcher knows what is in its sight.
type watcher struct {
	actor    access.Actor
	readable access.Sight
	within   access.Scope
	selector label.Selector
	filter   query.Expression
	only     map[string]bool // nil: all
}

// wants tells whether a host is what was asked for, whoever may see it.
func (w *watcher) wants(h *host.Host) bool {
	return (w.only == nil || w.only[h.ID]) && w.within.Contains(h.Scope) && w.selector.Matches(h.Labels) &&
		(w.filter == nil || w.filter.Matches(h.Field))
}

func (w *watcher) sees(h *host.Host) bool {
	return h != nil && w.wants(h) &&
		w.readable.SeesHost(h.Scope, h.Labels)
}

// stream sends hosts and changes. It returns true where changes were lost, nil error and false never.
func (s *Service) stream(ctx context.Context, w *watcher, changesOnly bool, send func(Event) error) (lost bool, err error) {
	rules := w.actor.Changed()
	w.readable = w.actor.Readable(host.Read)
	hosts, at := s.fleet.Snapshot(w.within)
	if !changesOnly {
		hosts = slices.DeleteFunc(hosts, func(h *host.Host) bool { return !w.sees(h) })
		slices.SortFunc(hosts, func(a, b *host.Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
		now := s.now().UTC()
		for _, h := range hosts {
			if err := send(Event{Changed: &Changed{Seen: s.seen(h), At: now}}); err != nil {
				return false, err
			}
		}
	}
	hosts = nil // not kept alive while the watch goes on
	if err := send(Event{Synced: true}); err != nil {
		return false, err
	}
	for {
		changes, next, more, ok := s.fleet.Since(at)
		if !ok {
			return true, nil
		}
		at = next
		for _, c := range changes {
			if event, ok := s.event(w, c); ok {
				if err := send(event); err != nil {
					return false, err
				}
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-more:
		case <-rules:
			rules = w.actor.Changed()
			if err := s.resight(w, send); err != nil {
				return false, err
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// resight looks again at what the caller may read, after the rules changed.
func (s *Service) resight(w *watcher, send func(Event) error) error {
	before := w.readable
	if w.readable = w.actor.Readable(host.Read); w.readable.Equal(before) {
		return nil
	}
	now := s.now().UTC()
	hosts, _ := s.fleet.Snapshot(w.within)
	for _, h := range hosts {
		c := Changed{Seen: s.seen(h), At: now}
		was, is := before.SeesHost(h.Scope, h.Labels), w.readable.SeesHost(h.Scope, h.Labels)
		switch {
		case was == is || !w.wants(h):
			continue
		case was:
			c.Previous, c.Gone = h.State, true
		}
		if err := send(Event{Changed: &c}); err != nil {
			return err
		}
	}
	return nil
}

// event is what a change is to a watcher; false where it is nothing.
func (s *Service) event(w *watcher, c host.Change) (Event, bool) {
	before, after := w.sees(c.Before), w.sees(c.After)
	switch {
	case after:
		changed := &Changed{Seen: s.seen(c.After), At: c.At}
		if before {
			changed.Previous = c.Before.State
		}
		return Event{Changed: changed}, true
	case before:
		return Event{Changed: &Changed{Seen: s.seen(c.Before), Previous: c.Before.State, Gone: true, At: c.At}}, true
	default:
		return Event{}, false
	}
}
