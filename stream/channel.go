package stream

import (
	"context"
	"io"
	"time"
)

// Writer is one channel's writing side. One goroutine at a time may use it.
type Writer struct {
	end     *End
	channel byte
	room    chan struct{} // holds one when a blocked Write should look again

	// Guarded by End.mu.
	ring     ring   // from what the peer has consumed to what was written
	consumed uint64 // by the peer
	again    uint64 // the peer has received up to here from a writer before this one
	sent     uint64 // on the attachment that stands
	limit    uint64 // granted by the peer
	closed   bool
	endSent  bool
	endRead  bool // the peer has consumed the end
	stopped  bool
}

// Write takes all of p, waiting while the ring is full or the peer grants nothing. It fails with ErrStopped once the peer
// wants no more, and with the session's reason once that is over.
func (w *Writer) Write(p []byte) (int, error) { return w.WriteContext(context.Background(), p) }

// WriteContext is Write that gives up when ctx ends, and tells how much was taken.
func (w *Writer) WriteContext(ctx context.Context, p []byte) (taken int, err error) {
	e := w.end
	for {
		e.mu.Lock()
		waits := true
		switch {
		case e.over != nil:
			err = e.over
		case w.stopped:
			err = ErrStopped
		case w.closed:
			err = ErrClosed
		}
		if err == nil && len(p) > 0 {
			n := 0
			if at := w.ring.end(); at < w.again {
				n = int(min(w.again-at, uint64(len(p))))
				w.ring.skip(at + uint64(n))
				w.sent, waits = w.ring.end(), false
			} else if n = min(len(p), e.window-w.ring.size); n > 0 {
				w.ring.append(p[:n])
				e.stir()
			}
			taken, p = taken+n, p[n:]
		}
		e.mu.Unlock()
		if err != nil || len(p) == 0 {
			return taken, err
		}
		if !waits {
			continue
		}
		select {
		case <-w.room:
		case <-e.done:
		case <-ctx.Done():
			return taken, ctx.Err()
		}
	}
}

// Consumed is up to where the peer has consumed what was written, for good.
func (w *Writer) Consumed() uint64 {
	w.end.mu.Lock()
	defer w.end.mu.Unlock()
	return w.consumed
}

// Room tells how many bytes Write would take without waiting.
func (w *Writer) Room() int {
	w.end.mu.Lock()
	defer w.end.mu.Unlock()
	return w.end.window - w.ring.size
}

// Close ends the channel behind what was written. It does not wait.
func (w *Writer) Close() error {
	e := w.end
	e.mu.Lock()
	defer e.mu.Unlock()
	w.closed = true
	e.stir()
	return nil
}

// settled tells whether the peer has consumed all, or wants no more. End.mu is held.
func (w *Writer) settled() bool {
	return w.stopped || (w.ring.size == 0 && w.ring.end() >= w.again && (!w.closed || w.endRead))
}

// Reader is one channel's reading side. One goroutine at a time may read; Ack and Stop may be called from another.
type Reader struct {
	end     *End
	channel byte
	data    chan struct{} // holds one when a waiting Next should look again

	// Guarded by End.mu.
	ring     ring // from what was read to what was received
	consumed uint64
	ended    bool
	endRead  bool
	stopped  bool

	told     uint64 // consumed, as the peer was told on this attachment
	limit    uint64 // likewise
	toldEnd  bool
	toldStop bool
	ackAt    time.Time // when consumed is told at the latest; zero: nothing is due
}

// Read reads and acknowledges at once: for whom it is enough that the bytes are in memory.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.Next(context.Background(), p)
	if n > 0 || err == io.EOF {
		r.Ack(r.Offset())
	}
	return n, err
}

// Await waits until Next returns at once: for who would hold no memory to read into while there is nothing to read.
func (r *Reader) Await(ctx context.Context) error {
	e := r.end
	for {
		e.mu.Lock()
		ready := r.ring.size > 0 || r.ended || r.stopped || e.over != nil
		e.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-r.data:
		case <-e.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next reads at least one byte without acknowledging it. After the channel's last byte it returns io.EOF, when the session
// is over its reason, each behind what was received before.
func (r *Reader) Next(ctx context.Context, p []byte) (int, error) {
	e := r.end
	if len(p) == 0 {
		return 0, nil
	}
	for {
		e.mu.Lock()
		if r.ring.size > 0 {
			n := min(len(p), r.ring.size)
			r.ring.copyTo(p[:n], r.ring.base)
			r.ring.trim(r.ring.base + uint64(n))
			if r.granting() {
				e.stir()
			}
			e.mu.Unlock()
			return n, nil
		}
		var err error
		switch {
		case r.ended:
			r.endRead = true
			err = io.EOF
		case r.stopped:
			err = ErrStopped
		case e.over != nil:
			err = e.over
		}
		e.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-r.data:
		case <-e.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Offset is that of the next byte that Next returns.
func (r *Reader) Offset() uint64 {
	r.end.mu.Lock()
	defer r.end.mu.Unlock()
	return r.ring.base
}

// Ack says that everything below offset is consumed for good, and, once Next has returned io.EOF, the end with it: the peer
// forgets it. Lower offsets than before are passed over.
func (r *Reader) Ack(offset uint64) {
	e := r.end
	e.mu.Lock()
	defer e.mu.Unlock()
	r.consumed = max(r.consumed, min(offset, r.ring.base))
	if r.ackAt.IsZero() && r.owing() {
		r.ackAt = time.Now().Add(ackDelay)
		e.stir()
	}
}

// Stop reads no more: what is there and what comes is dropped, and the writer is told.
func (r *Reader) Stop() {
	e := r.end
	e.mu.Lock()
	defer e.mu.Unlock()
	r.stopped = true
	r.drop()
	notify(r.data)
	e.stir()
}

func (r *Reader) drop() {
	r.ring.trim(r.ring.end())
	r.consumed = r.ring.base
}

func (r *Reader) finalRead() bool { return r.endRead && r.consumed == r.ring.base && r.ring.size == 0 }

// owing tells whether the peer could be told of something consumed. End.mu is held.
func (r *Reader) owing() bool { return r.consumed != r.told || (r.finalRead() && !r.toldEnd) }

// granting tells whether the peer is to be granted more before long. End.mu is held.
func (r *Reader) granting() bool {
	return !r.stopped && !r.ended && r.ring.base+uint64(r.end.window)-r.limit >= uint64(r.end.window/4)
}

// due tells whether an ack is to be sent now. End.mu is held.
func (r *Reader) due(now time.Time) bool {
	return r.granting() || (r.finalRead() && !r.toldEnd) || r.consumed-r.told >= uint64(r.end.window/4) ||
		(!r.ackAt.IsZero() && !now.Before(r.ackAt))
}
