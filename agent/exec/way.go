package exec

import (
	"context"
	"sync"
	"time"

	"github.com/loopbackd/loopback/exec"
)

// What of a prompt order goes in a report: a command that ends by then, and wrote no more.
const (
	promptWithin = 200 * time.Millisecond
	promptBytes  = 16 << 10 // of both outputs; a frame of the link has room for it
	storedWithin = 3 * time.Second
)

// order is one that is carried out.
type order struct {
	Order
	report func(Report)

	stored, cancelled     chan struct{} // closed by Word
	isStored, isCancelled bool          // guarded by Executor.mu
}

// way decides how what comes of an order gets to the control plane.
//
//	prompt ──▶ ended soon, wrote little ──▶ report ──▶ stored
//	   └─▶ takes its time, writes more       └─▶ no word of it
//	                 └──────▶ stream ◀─────────────┘
//
// A thousand hosts that are asked how long they are up would dial a thousand streams at a time otherwise, for a line each. All that
// the command writes is in the stream's rings besides, so that nothing is lost where the report is.
type way struct {
	order *order
	dial  func()
	timer *time.Timer

	mu       sync.Mutex
	streamed bool // it is dialled, or about to be
	written  [2][]byte
}

func newWay(o *order, dial func()) *way {
	w := &way{order: o, dial: dial}
	if !o.Prompt {
		w.stream()
		return w
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(promptWithin, w.begun)
	return w
}

// begun has the control plane know that the command goes on: from then on it waits for its end.
func (w *way) begun() {
	if w.stream() {
		w.order.report(Report{ID: w.order.ID, State: Begun})
	}
}

// stream goes by the stream from now on; false where it does already, or has ended.
func (w *way) stream() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streamed {
		return false
	}
	w.streamed, w.written = true, [2][]byte{}
	w.dial()
	return true
}

// wrote notes what the command wrote.
func (w *way) wrote(channel int, b []byte) {
	w.mu.Lock()
	streamed, small := w.streamed, len(w.written[0])+len(w.written[1])+len(b) <= promptBytes
	if !streamed && small {
		w.written[channel] = append(w.written[channel], b...)
	}
	w.mu.Unlock()
	if !streamed && !small {
		w.begun()
	}
}

// answer reports how the command ended, and tells whether that is all there is to do. Else the stream is there.
func (w *way) answer(ctx context.Context, r exec.Result) bool {
	w.mu.Lock()
	if w.streamed {
		w.mu.Unlock()
		return false
	}
	w.timer.Stop()
	report := Report{ID: w.order.ID, State: Ended, Stdout: w.written[0], Stderr: w.written[1], Result: r}
	w.mu.Unlock()
	w.order.report(report)
	waiting := time.NewTimer(storedWithin)
	defer waiting.Stop()
	select {
	case <-w.order.stored:
		return true
	case <-waiting.C:
	case <-ctx.Done():
	}
	w.stream()
	return false
}

// close dials no more.
func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streamed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}
