package wire

import "sync"

// hands run what is deep (handshakes, handlers, sealing) for goroutines that should stay shallow. A link's goroutine
// spends its life parked in a read; a stack that once grew would stay with every one of thousands. Here the grown stacks
// belong to a few goroutines that take turns.
//
// There are as many hands as tasks under way, and idle ones wait for the next, so that a handler that blocks holds up
// only its own link.
type hands struct {
	mu    sync.Mutex
	idle  []*hand
	all   sync.WaitGroup
	done  bool
	tasks sync.Pool // of *task; the server's own, so that servers in different synctest bubbles share no channel
}

// maxIdleHands is how many goroutines wait for work rather than end.
const maxIdleHands = 64

type hand struct{ work chan *task }

// task is one turn. Its channel is reused, which is why tasks are pooled.
type task struct {
	link    *Link
	message []byte
	done    chan struct{}
}

// receive has link.receive(message) run by a hand, and returns when it is done.
func (h *hands) receive(link *Link, message []byte) {
	t, ok := h.tasks.Get().(*task)
	if !ok {
		t = &task{done: make(chan struct{}, 1)}
	}
	t.link, t.message = link, message
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		worker := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		worker.work <- t
	} else {
		h.all.Add(1)
		h.mu.Unlock()
		go h.run(t)
	}
	<-t.done
	t.link, t.message = nil, nil
	h.tasks.Put(t)
}

func (h *hands) run(t *task) {
	defer h.all.Done()
	self := &hand{work: make(chan *task, 1)}
	for t != nil {
		t.link.receive(t.message)
		h.mu.Lock()
		stay := !h.done && len(h.idle) < maxIdleHands
		if stay {
			h.idle = append(h.idle, self)
		}
		h.mu.Unlock()
		t.done <- struct{}{}
		if !stay {
			return
		}
		t = <-self.work
	}
}

// close lets idle hands go and waits for the busy ones.
func (h *hands) close() {
	h.mu.Lock()
	h.done = true
	idle := h.idle
	h.idle = nil
	h.mu.Unlock()
	for _, worker := range idle {
		worker.work <- nil
	}
	h.all.Wait()
}
