package wire

import (
	"sync"

	"github.com/lxzan/gws"
)

// hands run what is deep (handshakes, handlers, sealing) for goroutines that should stay shallow. A link's goroutine
// spends its life parked in a read; a stack that once grew would stay with every one of thousands. Here the grown stacks
// belong to a few goroutines that take turns, which saves 3 to 4 KiB a link.
//
// There are as many hands as messages being handled, and idle ones wait for the next, so that a handler that blocks
// holds up only its own link.
type hands struct {
	mu   sync.Mutex
	idle []chan task
	all  sync.WaitGroup
	done bool
}

// maxIdleHands is how many goroutines wait for work rather than end.
const maxIdleHands = 64

// task is a message to handle. Its socket's turn is taken, and given back by whoever handles it.
type task struct {
	socket  *socket
	message *gws.Message
}

// handle has a message handled and does not wait for it: the reader goes back to its read, and what comes next waits for
// the socket's turn.
func (h *hands) handle(t task) {
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		hand := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		hand <- t
		return
	}
	h.all.Add(1)
	h.mu.Unlock()
	go h.run(t)
}

func (h *hands) run(t task) {
	defer h.all.Done()
	self := make(chan task, 1)
	for t.socket != nil {
		t.socket.handle(t.message)
		t = task{} // an idle hand holds nothing of the last link
		h.mu.Lock()
		stay := !h.done && len(h.idle) < maxIdleHands
		if stay {
			h.idle = append(h.idle, self)
		}
		h.mu.Unlock()
		if !stay {
			return
		}
		t = <-self
	}
}

// close lets idle hands go and waits for the busy ones.
func (h *hands) close() {
	h.mu.Lock()
	h.done = true
	idle := h.idle
	h.idle = nil
	h.mu.Unlock()
	for _, hand := range idle {
		hand <- task{}
	}
	h.all.Wait()
}
