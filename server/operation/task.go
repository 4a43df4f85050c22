package operation

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
)

var everywhere = access.Everywhere()

// errLost says that the attempt is over: somebody cancelled the operation, or another replica leased it.
var errLost = fault.New(fault.Conflict, "operation_lost", "the operation is no longer this worker's")

// Task is one attempt at an operation, in the hands of its handler.
type Task struct {
	worker *Worker
	ctx    context.Context
	stop   context.CancelFunc
	check  chan struct{} // look at the operation: it changed

	seen atomic.Int64 // feed position of op

	mu   sync.Mutex
	op   operation.Operation
	gone atomic.Bool // set once: the attempt is over
}

func newTask(ctx context.Context, w *Worker, o operation.Operation) *Task {
	t := &Task{worker: w, op: o, check: make(chan struct{}, 1)}
	t.ctx, t.stop = context.WithCancel(ctx)
	t.seen.Store(o.Revision)
	return t
}

// Operation as it stands.
func (t *Task) Operation() operation.Operation {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.op
	o.Steps = slices.Clone(o.Steps)
	return o
}

func (t *Task) look() {
	select {
	case t.check <- struct{}{}:
	default:
	}
}

func (t *Task) lost() bool { return t.gone.Load() }

// abandon ends the attempt: nothing more of it is written.
func (t *Task) abandon() {
	t.gone.Store(true)
	t.stop()
}

// Step does a part of the work and shows it. Steps that an earlier attempt finished are not done again. The message
// says what came of it.
func (t *Task) Step(ctx context.Context, name string, do func(context.Context) (message string, err error)) error {
	done := false
	err := t.write(ctx, func(o *operation.Operation) {
		s := step(o, name)
		if done = s.State == operation.Succeeded; done {
			return
		}
		s.State, s.Message = operation.Running, ""
		if s.StartedAt.IsZero() {
			s.StartedAt = t.worker.Now().UTC()
		}
	})
	if err != nil || done {
		return err
	}
	message, failure := do(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // nothing is known of the step: the next attempt repeats it
	}
	err = t.write(ctx, func(o *operation.Operation) {
		s := step(o, name)
		s.State, s.Message, s.EndedAt = operation.Succeeded, message, t.worker.Now().UTC()
		switch {
		case failure == nil:
		case again(failure):
			s.State, s.Message, s.EndedAt = operation.Running, "to be tried again: "+fault.Of(failure).Message, time.Time{}
		default:
			s.State, s.Message = operation.Failed, fault.Of(failure).Message
		}
		finished := 0
		for _, s := range o.Steps {
			if s.State == operation.Succeeded {
				finished++
			}
		}
		o.Progress = max(o.Progress, float64(finished)/float64(len(o.Steps)))
	})
	if failure != nil {
		return failure
	}
	return err
}

// Progress shows how far the current step has come: done of total.
func (t *Task) Progress(ctx context.Context, name string, done, total int, message string) error {
	return t.write(ctx, func(o *operation.Operation) {
		step(o, name).Message = message
		finished := 0.0
		for _, s := range o.Steps {
			if s.State == operation.Succeeded {
				finished++
			}
		}
		if total > 0 {
			finished += float64(done) / float64(total)
		}
		o.Progress = min(max(o.Progress, finished/float64(len(o.Steps))), 1)
	})
}

func step(o *operation.Operation, name string) *operation.Step {
	for i := range o.Steps {
		if o.Steps[i].Name == name {
			return &o.Steps[i]
		}
	}
	o.Steps = append(o.Steps, operation.Step{Name: name, State: operation.Pending})
	return &o.Steps[len(o.Steps)-1]
}

// write changes the operation if the attempt is still ours.
func (t *Task) write(ctx context.Context, change func(*operation.Operation)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost() {
		return errLost
	}
	next := t.op
	next.Steps = slices.Clone(t.op.Steps)
	change(&next)
	if next.State == operation.Running && next.LeaseOwner != "" {
		next.LeaseUntil = t.worker.Now().UTC().Add(t.worker.Lease)
	}
	var stored operation.Operation
	err := t.worker.Store.Observe(ctx, func(tx Tx) error {
		var err error
		stored, err = tx.PutOperationAttempt(ctx, next)
		return err
	})
	if err != nil {
		if fault.KindOf(err) == fault.Conflict {
			t.abandon()
			return errLost
		}
		return err
	}
	t.op = stored
	t.seen.Store(stored.Revision)
	return nil
}

// renew keeps the lease until the task ends. A lease that cannot be renewed for its whole length is lost: somebody else
// may hold the operation by then.
func (t *Task) renew() {
	ticker := time.NewTicker(t.worker.Lease / 3)
	defer ticker.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.check:
			o, err := t.worker.Store.View().Operation(t.ctx, t.Operation().ID)
			if err == nil && o.Attempt == t.Operation().Attempt {
				continue
			}
			if err != nil && fault.KindOf(err) != fault.NotFound {
				continue
			}
			t.abandon()
			return
		case <-ticker.C:
		}
		err := t.write(t.ctx, func(*operation.Operation) {})
		if err != nil && t.worker.Now().After(t.Operation().LeaseUntil) {
			t.stop()
			return
		}
	}
}

// end writes the outcome.
func (t *Task) end(ctx context.Context, failure error, stopping bool) error {
	now := t.worker.Now().UTC()
	return t.write(ctx, func(o *operation.Operation) {
		o.LeaseOwner = ""
		switch {
		case failure == nil:
			o.State, o.Progress, o.EndedAt = operation.Succeeded, 1, now
		case stopping:
			o.LeaseUntil = now // another replica, or we after our restart, goes on at once
		case again(failure) && o.Attempt < t.worker.Attempts:
			o.LeaseUntil = now.Add(backoff(o.Attempt))
			o.ErrorCode, o.Error = fault.Of(failure).Code, fault.Of(failure).Message
			return
		default:
			e := fault.Of(failure)
			o.State, o.EndedAt, o.ErrorCode, o.Error = operation.Failed, now, e.Code, e.Message
			for i := range o.Steps {
				if o.Steps[i].State == operation.Running {
					o.Steps[i].State, o.Steps[i].EndedAt = operation.Failed, now
				}
			}
			return
		}
		o.ErrorCode, o.Error = "", ""
	})
}

func again(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Timeout, fault.Canceled:
		return true
	default:
		return false
	}
}

// backoff is how long an operation rests after its nth attempt: doubling from a quarter of a second to half a minute.
func backoff(attempt int64) time.Duration {
	return min(250*time.Millisecond<<min(max(attempt-1, 0), 10), 30*time.Second)
}
