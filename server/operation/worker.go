package operation

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/feed"
)

// Handler does the work of one kind of operation. It may be run again after an error or a crash. Its error decides:
// Unavailable and Timeout are tried again later, everything else fails the operation.
type Handler func(ctx context.Context, t *Task) error

// Options of a Worker.
type Options struct {
	Store    Store
	Handlers map[operation.Kind]Handler
	Owner    string // of leases: the replica's id
	Now      func() time.Time
	Logger   *slog.Logger

	Concurrency int           // operations at a time; 0: 8
	Lease       time.Duration // renewed at a third of it; 0: 15 s
	Every       time.Duration // looks by itself this often; 0: 1 s
	Attempts    int64         // after so many an operation that could not go on fails; 0: 50
}

// patience is how long the end of an attempt is tried to be written.
const patience = 15 * time.Second

// Worker carries operations out on one replica.
type Worker struct {
	Options
	wake chan struct{}

	mu      sync.Mutex
	running map[string]*Task
}

// NewWorker makes a worker; Run makes it work.
func NewWorker(o Options) *Worker {
	if o.Concurrency == 0 {
		o.Concurrency = 8
	}
	if o.Lease == 0 {
		o.Lease = 15 * time.Second
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Attempts == 0 {
		o.Attempts = 50
	}
	return &Worker{Options: o, wake: make(chan struct{}, 1), running: map[string]*Task{}}
}

// Follow wakes the worker when operations changed, until ctx ends.
func (w *Worker) Follow(ctx context.Context, from *feed.Subscription) error {
	return follow(ctx, from, w.Apply)
}

// Apply wakes the worker when operations changed.
func (w *Worker) Apply(changes []feed.Change) {
	for _, change := range changes {
		if change.Kind != feed.Operation {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
		w.mu.Lock()
		if t := w.running[change.ID]; t != nil && change.Position > t.seen.Load() {
			t.look()
		}
		w.mu.Unlock()
	}
}

// Run works until ctx ends, then hands back what it has leased and returns once every handler has.
func (w *Worker) Run(ctx context.Context) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	slots := make(chan struct{}, w.Concurrency)
	ticker := time.NewTicker(w.Every)
	defer ticker.Stop()
	for {
		for w.leaseNext(ctx, slots, &handlers) {
		}
		select {
		case <-w.wake:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// leaseNext starts one operation, and tells whether there may be more. It waits for a free slot first, so that a lease
// is never held by work that has not begun.
func (w *Worker) leaseNext(ctx context.Context, slots chan struct{}, handlers *sync.WaitGroup) bool {
	if due, err := w.due(ctx); err != nil || !due {
		w.complain(ctx, "look for operations", err)
		return false
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	var o operation.Operation
	var found bool
	err := w.Store.Observe(ctx, func(tx Tx) error {
		var err error
		now := w.Now().UTC()
		o, found, err = tx.LeaseOperation(ctx, w.Owner, now, now.Add(w.Lease))
		return err
	})
	if err != nil || !found {
		<-slots
		w.complain(ctx, "lease an operation", err)
		return false
	}
	t := newTask(ctx, w, o)
	w.mu.Lock()
	if older := w.running[o.ID]; older != nil { // its lease ran out, ours or not: two attempts must not go on together
		older.abandon()
	}
	w.running[o.ID] = t
	w.mu.Unlock()
	handlers.Go(func() {
		defer func() { <-slots }()
		w.carryOut(t)
		w.mu.Lock()
		if w.running[o.ID] == t {
			delete(w.running, o.ID)
		}
		w.mu.Unlock()
		select { // its slot, or its lease, may be what somebody waits for
		case w.wake <- struct{}{}:
		default:
		}
	})
	return true
}

// due tells from a read alone whether there is anything to lease: looking must not cost a transaction.
func (w *Worker) due(ctx context.Context) (bool, error) {
	q := operation.Query{Readable: everywhere, States: []operation.State{operation.Pending, operation.Running}}
	q.Page.Size = 1000
	now := w.Now()
	for {
		page, next, err := w.Store.View().Operations(ctx, q)
		if err != nil {
			return false, err
		}
		for _, o := range page {
			if !o.LeaseUntil.After(now) {
				return true, nil
			}
		}
		if next == "" {
			return false, nil
		}
		q.Page.Token = next
	}
}

func (w *Worker) carryOut(t *Task) {
	renewals := make(chan struct{})
	go func() {
		defer close(renewals)
		t.renew()
	}()
	o := t.Operation()
	handler := w.Handlers[o.Kind]
	var err error
	switch {
	case handler == nil:
		err = fault.New(fault.Unavailable, "operation_kind_unknown", "this replica does not know the kind of operation %s", o.Kind)
	default:
		err = w.guard(handler, t)
	}
	// The end is written even when this replica is stopping: by then only ctx of the task is over. It may come after the
	// lease ran out: the attempt's number decides whether it still counts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), patience)
	defer cancel()
	stopping := t.ctx.Err() != nil
	t.stop()
	<-renewals
	if t.lost() {
		return
	}
	w.complain(ctx, "write the end of operation "+o.ID, t.end(ctx, err, stopping))
}

// guard turns a handler's panic into its error: one operation must not take the control plane with it.
func (w *Worker) guard(handler Handler, t *Task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.Logger.ErrorContext(t.ctx, "an operation's handler panicked", "operation", t.Operation().ID, "panic", p)
			err = fault.New(fault.Internal, "internal", "internal error")
		}
	}()
	return handler(t.ctx, t)
}

func (w *Worker) complain(ctx context.Context, doing string, err error) {
	if err == nil || errors.Is(err, errLost) || ctx.Err() != nil {
		return
	}
	w.Logger.WarnContext(ctx, "operations: cannot "+doing, "error", err)
}
