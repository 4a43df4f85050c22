package host

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
)

// CountQuery says which hosts to count.
type CountQuery struct {
	Workspace string
	Selector  label.Selector
	Filter    query.Expression // nil: any
}

// Counts of hosts.
type Counts struct {
	Total     int64 // all but removed ones
	ByState   map[host.State]int64
	ByVersion map[string]int64 // of those that have an agent and are not removed
}

// Count is how many hosts the caller may see. It is answered from memory.
func (s *Service) Count(ctx context.Context, q CountQuery) (Counts, error) {
	w, err := s.watcher(ctx, WatchQuery{Workspace: q.Workspace, Selector: q.Selector, Filter: q.Filter})
	if err != nil {
		return Counts{}, err
	}
	out := Counts{ByState: map[host.State]int64{}, ByVersion: map[string]int64{}}
	hosts, _ := s.fleet.Snapshot(w.within)
	for _, h := range hosts {
		if !w.sees(h) {
			continue
		}
		out.ByState[h.State]++
		if h.State == host.Removed {
			continue
		}
		out.Total++
		if h.AgentVersion != "" {
			out.ByVersion[h.AgentVersion]++
		}
	}
	return out, nil
}

// watcher is what a query sees of the fleet.
func (s *Service) watcher(ctx context.Context, q WatchQuery) (*watcher, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous || actor.Kind == "" {
		return nil, access.ErrUnauthenticated
	}
	w := &watcher{actor: actor, readable: actor.Readable(host.Read), selector: q.Selector, filter: q.Filter}
	if q.Workspace != "" {
		ws, err := s.tenants.Frame(ctx, q.Workspace, host.Read)
		if err != nil {
			return nil, err
		}
		w.within = ws.Scope()
	}
	for _, name := range q.Hosts {
		h, err := s.find(ctx, Ref{name, q.Workspace}, host.Read)
		if err != nil {
			return nil, err
		}
		if w.only == nil {
			w.only = map[string]bool{}
		}
		w.only[h.ID] = true
	}
	return w, nil
}
