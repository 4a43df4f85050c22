// Package change says of which kinds of things some changed, to callers who show lists of them.
//
// It says that something changed, never what: a caller who is told asks by the ordinary methods, which decide what they
// may see. Only changes in places where the caller may read things of the kind are told, so that nobody learns of work
// elsewhere. What comes quickly after one another is told at once: a caller hears at most five times a second, however
// much happens. One that falls behind, and one whose sight changed, is told of all kinds that this may concern, which
// costs questions but misses nothing. When the feed itself lost its place everybody is told of everything.
package change

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// readers are the kinds that are told of, and by which permission one reads them: any of several.
var readers = map[feed.Kind][]access.Permission{
	feed.Organisation: {tenant.OrganisationsRead},
	feed.Project:      {tenant.ProjectsRead},
	feed.Workspace:    {tenant.WorkspacesRead},
	feed.Token:        {token.List},
	feed.Settings:     {settings.Read},
	feed.Operation:    {operation.Read},
	feed.APIKey:       {apikey.Read},
	feed.Release:      {release.Read},
	feed.Principal:    {principal.UsersRead, principal.ServiceAccountsRead},
	feed.Group:        {principal.GroupsRead},
	feed.Role:         {policy.RolesRead},
	feed.Binding:      {policy.BindingsRead},
	feed.Sink:         {sink.Read},
	feed.SignIn:       {signin.Read},
	feed.Grant:        {grant.Read},
	feed.GrantPolicy:  {grant.PoliciesRead},
	feed.Provider:     {provider.Read},
	feed.AccessReview: {review.Read},
	feed.Lock:         {lock.Read},
	feed.Guest:        {guest.Read},
	feed.Exec:         {exec.Read},
	feed.Command:      {command.Read},

	feed.SessionReview:       {sessionreview.Read},
	feed.SessionReviewPolicy: {sessionreview.Read},
}

// Told is what a caller hears.
type Told struct {
	Kinds  []feed.Kind // in order
	Access bool        // the caller holds other permissions than before
	Synced bool        // from here on nothing is missed
}

const (
	pace = 200 * time.Millisecond // between two tellings
	most = 1000                   // kinds and places that are kept for a caller; with more it is told of all kinds
)

// Service tells.
type Service struct {
	permissions []access.Permission // whose holding is looked at when rules change

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// NewService makes a service that looks at these permissions when rules change.
func NewService(permissions []access.Permission) *Service {
	return &Service{permissions: permissions, watchers: map[*watcher]struct{}{}}
}

// place is where a thing of a kind changed.
type place struct {
	kind feed.Kind
	at   access.Scope
}

// watcher is a caller. Its fields are guarded by the service's lock.
type watcher struct {
	wake    chan struct{}
	pending map[place]struct{}
	lost    bool // more than pending holds
}

// Follow hands changes to callers, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		s.mu.Lock()
		for w := range s.watchers {
			w.lost = w.lost || anew
			for _, c := range changes {
				if readers[c.Kind] != nil {
					w.pending[place{c.Kind, c.Scope}] = struct{}{}
				}
			}
			if len(w.pending) > most {
				w.pending, w.lost = map[place]struct{}{}, true
			}
			if w.lost || len(w.pending) > 0 {
				select {
				case w.wake <- struct{}{}:
				default: // it has yet to look at what came before
				}
			}
		}
		s.mu.Unlock()
	}
}

// Watch tells of changes of these kinds (none: of all), until ctx ends or send fails. send may block for as long as it likes.
func (s *Service) Watch(ctx context.Context, kinds []feed.Kind, send func(Told) error) error {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous {
		return access.ErrUnauthenticated
	}
	kinds, err := wanted(kinds)
	if err != nil {
		return err
	}
	return s.tell(ctx, actor, kinds, send)
}

func wanted(kinds []feed.Kind) ([]feed.Kind, error) {
	all := slices.Sorted(maps.Keys(readers))
	if len(kinds) == 0 {
		return all, nil
	}
	var c fault.Check
	for _, k := range kinds {
		c.That(readers[k] != nil, "kinds", "has %q; allowed are %v", string(k), all)
	}
	return slices.Compact(slices.Sorted(slices.Values(kinds))), c.Err("changes_kinds_invalid", "the kinds are not valid")
}

func (s *Service) tell(ctx context.Context, actor access.Actor, kinds []feed.Kind, send func(Told) error) error {
	w := &watcher{wake: make(chan struct{}, 1), pending: map[place]struct{}{}}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	rules := actor.Changed()
	sight, held := sights(actor, kinds), s.held(actor)
	if err := send(Told{Synced: true}); err != nil {
		return err
	}
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		var told Told
		select {
		case <-w.wake:
			s.mu.Lock()
			pending, lost := w.pending, w.lost
			w.pending, w.lost = map[place]struct{}{}, false
			s.mu.Unlock()
			told.Kinds = seen(kinds, sight, pending, lost)
		case <-rules:
			rules = actor.Changed()
			now := sights(actor, kinds)
			for _, k := range kinds {
				if !slices.EqualFunc(now[k], sight[k], access.Sight.Equal) {
					told.Kinds = append(told.Kinds, k)
				}
			}
			may := s.held(actor)
			told.Access = !slices.Equal(may, held)
			sight, held = now, may
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(told.Kinds) == 0 && !told.Access {
			continue
		}
		if err := send(told); err != nil {
			return err
		}
		rest.Reset(pace)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seen are the kinds of which something changed in sight.
func seen(kinds []feed.Kind, sight map[feed.Kind][]access.Sight, pending map[place]struct{}, lost bool) []feed.Kind {
	if lost {
		return kinds
	}
	var out []feed.Kind
	for p := range pending {
		if !slices.Contains(out, p.kind) && slices.ContainsFunc(sight[p.kind], func(s access.Sight) bool { return s.Sees(p.at) }) {
			out = append(out, p.kind)
		}
	}
	slices.Sort(out)
	return out
}

func sights(actor access.Actor, kinds []feed.Kind) map[feed.Kind][]access.Sight {
	out := map[feed.Kind][]access.Sight{}
	for _, k := range kinds {
		for _, p := range readers[k] {
			out[k] = append(out[k], actor.Readable(p))
		}
	}
	return out
}

func (s *Service) held(actor access.Actor) []access.Permission {
	var out []access.Permission
	for _, p := range s.permissions {
		if actor.Touches(p) {
			out = append(out, p)
		}
	}
	return out
}
