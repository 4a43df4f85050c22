// Package operation shows long work to those who may see it, and carries it out.
//
// The operations in the database are the queue. A slice that starts long work writes the operation in the transaction
// of the change that it follows from, so that an acknowledged change is never without the work it promised. A Worker on
// each replica leases what is pending, or what a dead replica left behind, and gives it to the Handler of its kind:
//
//	pending ──lease──▶ running ──handler returned──▶ succeeded, failed
//	                     │  ▲
//	                     └──┘ the handler could not go on yet, the replica stopped or died: leased again later
//
// A lease counts attempts, and every write of a worker names its attempt. A replica that was paused past its lease, or
// whose operation was cancelled meanwhile, finds its next write refused and stops: it cannot act on. Steps are written
// as they begin and end. A handler that runs again skips the steps that succeeded and repeats the one that was cut, so
// steps must be safe to repeat.
package operation

import (
	"context"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

// Bounds of a wait.
const (
	DefaultWait = time.Minute
	MaxWait     = 10 * time.Minute
)

// lookAgain is how often a waiter looks by itself: the feed is quicker, and only a hint.
const lookAgain = 5 * time.Second

// Reader reads operations.
type Reader interface {
	Operation(ctx context.Context, id string) (operation.Operation, error)
	Operations(ctx context.Context, q operation.Query) ([]operation.Operation, string, error)
}

// Tx changes them.
type Tx interface {
	Operation(ctx context.Context, id string) (operation.Operation, error)
	PutOperation(ctx context.Context, o operation.Operation) (operation.Operation, error)
	PutOperationAttempt(ctx context.Context, o operation.Operation) (operation.Operation, error)
	LeaseOperation(ctx context.Context, owner string, now, until time.Time) (operation.Operation, bool, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace by id or name within what the caller may read, and demands a permission there.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Service answers what people ask about operations.
type Service struct {
	store   Store
	tenants Tenants
	now     func() time.Time

	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool // by operation: who waits for a change of it
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, now func() time.Time) *Service {
	return &Service{store: store, tenants: tenants, now: now, waiting: map[string]map[chan struct{}]bool{}}
}

// Get is one operation.
func (s *Service) Get(ctx context.Context, id string) (operation.Operation, error) {
	return s.permitted(ctx, s.store.View(), id, operation.Read)
}

type getter interface {
	Operation(ctx context.Context, id string) (operation.Operation, error)
}

func (s *Service) permitted(ctx context.Context, r getter, id string, p access.Permission) (operation.Operation, error) {
	o, err := r.Operation(ctx, id)
	if err != nil {
		return operation.Operation{}, err
	}
	actor := access.ActorFrom(ctx)
	if p == operation.Read && o.Actor == actor.ID && actor.Touches(p) {
		return o, nil // whoever began it on a host that they may act on sees how it ends
	}
	if err := actor.Require(p, o.Scope, operation.Read, "operation "+id); err != nil {
		return operation.Operation{}, err
	}
	return o, nil
}

// List is the operations that the caller may read, newest first. workspace may be empty.
func (s *Service) List(ctx context.Context, workspace string, q operation.Query) ([]operation.Operation, string, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous {
		return nil, "", access.ErrUnauthenticated
	}
	for _, state := range q.States {
		switch state {
		case operation.Pending, operation.Running, operation.Succeeded, operation.Failed, operation.Cancelled:
		default:
			var c fault.Check
			c.Add("states", "has %q; allowed are pending, running, succeeded, failed, cancelled", state)
			return nil, "", c.Err("operation_query_invalid", "the query is not valid")
		}
	}
	if workspace != "" {
		w, err := s.tenants.Workspace(ctx, workspace, operation.Read)
		if err != nil {
			return nil, "", err
		}
		q.Within = w.Scope()
	}
	q.Readable = actor.Readable(operation.Read)
	return s.store.View().Operations(ctx, q)
}

// Wait answers when the operation has ended, or when the time is over, with the operation as it is then.
func (s *Service) Wait(ctx context.Context, id string, atMost time.Duration) (operation.Operation, error) {
	switch {
	case atMost == 0:
		atMost = DefaultWait
	case atMost < 0 || atMost > MaxWait:
		var c fault.Check
		c.Add("timeout", "is %s; allowed are up to %s", atMost, MaxWait)
		return operation.Operation{}, c.Err("operation_wait_invalid", "the wait is not valid")
	}
	changed, stop := s.watch(id)
	defer stop()
	over := time.NewTimer(atMost)
	defer over.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		o, err := s.Get(ctx, id)
		if err != nil || o.State.Ended() {
			return o, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			return o, nil
		case <-ctx.Done():
			return operation.Operation{}, ctx.Err()
		}
	}
}

func (s *Service) watch(id string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[id] == nil {
		s.waiting[id] = map[chan struct{}]bool{}
	}
	s.waiting[id][c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting[id], c)
		if len(s.waiting[id]) == 0 {
			delete(s.waiting, id)
		}
	}
}

// Follow tells waiters of the operations that changed, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	return follow(ctx, from, s.Apply)
}

// follow hands on what a feed holds. What was missed is made up for by looking from time to time.
func follow(ctx context.Context, from *feed.Subscription, apply func([]feed.Change)) error {
	for {
		changes, _, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		apply(changes)
	}
}

// Apply tells waiters of the operations that changed.
func (s *Service) Apply(changes []feed.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range changes {
		if change.Kind != feed.Operation {
			continue
		}
		for c := range s.waiting[change.ID] {
			select {
			case c <- struct{}{}:
			default: // it has yet to look at the change before
			}
		}
	}
}

// Cancel ends an operation that has not ended. What it did so far stays: a quarantine whose operation is cancelled is
// still a quarantine, nobody waits for its effect any more.
func (s *Service) Cancel(ctx context.Context, id string) (operation.Operation, error) {
	var out operation.Operation
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, id, operation.Cancel)
		if err != nil {
			return err
		}
		if before.State.Ended() {
			return fault.New(fault.Precondition, "operation_ended", "operation %s has ended already: %s", id, before.State)
		}
		if !before.Kind.Cancellable() {
			return fault.New(fault.Precondition, "operation_not_cancellable", "operation %s cannot be cancelled: hosts are told already", id).
				WithHint("let it end: loopback operation wait %s", id)
		}
		now := s.now().UTC()
		o := before
		o.State, o.EndedAt = operation.Cancelled, now
		o.LeaseOwner, o.LeaseUntil = "", time.Time{}
		o.Attempt++ // whoever works on it finds its attempt over
		o.Steps = append([]operation.Step(nil), before.Steps...)
		for i := range o.Steps {
			if !o.Steps[i].State.Ended() {
				o.Steps[i].State, o.Steps[i].EndedAt = operation.Cancelled, now
			}
		}
		if out, err = tx.PutOperation(ctx, o); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), operation.Cancel, o.Scope, o.ID, o.Name).
			Change(state{before.State}, state{out.State}))
	})
	return out, err
}

// state is what the audit log shows of an operation.
type state struct {
	State operation.State `json:"state"`
}
