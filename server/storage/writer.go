package storage

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/loopbackd/loopback/fault"
)

// Bounds of the group commit.
const (
	maxBatch  = 1024                 // closures in one transaction
	batchTime = 4 * time.Millisecond // after which a transaction takes no further closure
	maxQueue  = 4096                 // closures that wait; more callers wait to wait
)

// request is one closure on its way through the writer.
type request struct {
	change  func(*Tx) error
	audited bool // what it changes must have an audit entry
	state   atomic.Int32
	done    chan struct{}
	err     error // set before done is closed

	span     trace.SpanContext // of the caller's write; invalid: it is not traced
	position int64             // of its last change in the feed; 0: it made none
}

// The states of a request.
const (
	waiting   int32 = iota
	started         // its closure ran or runs: its caller waits for the outcome
	abandoned       // its caller gave up before it started
)

func (r *request) answer(err error) {
	r.err = err
	close(r.done)
}

// writer runs closures one after the other and commits them in groups.
type writer struct {
	db      *DB
	queue   chan *request
	line    *line // nil while there is no connection
	id      string
	batch   int64         // number of the current batch
	closing chan struct{} // closed: nothing is retried any more
	stopped chan struct{}

	mu      sync.Mutex
	closed  bool
	callers sync.WaitGroup
}

var errClosed = fault.New(fault.Unavailable, "database_closed", "the control plane is shutting down").
	WithHint("try again; another replica, or this one after its start, will answer")

func newWriter(db *DB, id string) *writer {
	return &writer{db: db, id: id, queue: make(chan *request, maxQueue),
		closing: make(chan struct{}), stopped: make(chan struct{})}
}

// do hands a closure to the writer and waits for its outcome. A context that ends before the closure started takes it
// back; after that the outcome is waited for.
func (w *writer) do(ctx context.Context, audited bool, change func(*Tx) error) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	w.callers.Add(1)
	w.mu.Unlock()
	defer w.callers.Done()

	if err := ctx.Err(); err != nil {
		return gaveUp(err)
	}
	r := &request{change: change, audited: audited, done: make(chan struct{}), span: trace.SpanContextFromContext(ctx)}
	select {
	case w.queue <- r:
	case <-ctx.Done():
		return gaveUp(ctx.Err())
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, abandoned) {
			return gaveUp(ctx.Err())
		}
		<-r.done
		return r.err
	}
}

func gaveUp(err error) error {
	return fmt.Errorf("waiting for the database's turn, nothing was written: %w", err)
}

// close lets what was accepted finish and ends the writer.
func (w *writer) close() {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if !again {
		close(w.closing)
		w.callers.Wait()
		close(w.queue)
	}
	<-w.stopped
}

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.stopped)
	for first := range w.queue {
		w.commitGroup(first)
	}
	if w.line != nil {
		w.line.close()
	}
}
