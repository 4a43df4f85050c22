package shell

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// output records what the terminal shows.
func (h *Host) output(ctx context.Context) {
	buffer := make([]byte, recording.MaxData)
	for {
		n, err := h.terminal.readAll(buffer)
		if n > 0 {
			h.add(recording.Output, buffer[:n])
			h.wait(ctx)
		}
		if err != nil || ctx.Err() != nil {
			return
		}
	}
}

// wait holds the terminal back while the control plane is there and has much to take yet.
func (h *Host) wait(ctx context.Context) {
	for h.behind() > window && h.End.Attached() {
		again := time.NewTimer(100 * time.Millisecond) // the connection may break meanwhile
		select {
		case <-h.taken:
		case <-again.C:
		case <-h.killed:
			again.Stop()
			return
		case <-ctx.Done():
			again.Stop()
			return
		}
		again.Stop()
	}
}

// behind is how many bytes of the record the control plane's newest end has yet to take.
func (h *Host) behind() int64 {
	h.sending.Lock()
	s := h.sender
	h.sending.Unlock()
	return h.writer.Extent().Bytes - s.sent.Load()
}

// sender hands the record to one life of the control plane's end.
type sender struct {
	life int
	stop context.CancelFunc
	more chan struct{} // holds one when there may be more of the record
	sent atomic.Int64  // the stream has taken it up to here
	done chan struct{} // closes when it sends no more
}

// sendFrom hands the record to a life of the control plane's end, from a place on, and to no life before it any more.
func (h *Host) sendFrom(ctx context.Context, life int, pos int64) error {
	tail, ok, err := h.writer.Tail(pos)
	if err == nil && ok && tail.Pos() != pos {
		ok = false
	}
	switch {
	case err != nil:
		return fault.New(fault.Internal, "shell_record_unread", "its record cannot be read").WithCause(err)
	case !ok:
		return fault.New(fault.Conflict, "shell_record_apart", "the control plane goes on from %d, where the host's record has no event", pos)
	}
	ctx, stop := context.WithCancel(ctx)
	s := &sender{life: life, stop: stop, more: make(chan struct{}, 1), done: make(chan struct{})}
	s.sent.Store(pos)
	h.sending.Lock()
	defer h.sending.Unlock()
	if h.sender != nil {
		if h.sender.life >= life {
			stop()
			return nil
		}
		h.sender.stop()
	}
	h.sender = s
	h.sent.Go(func() {
		defer close(s.done)
		defer stop()
		h.send(ctx, s, tail)
	})
	return nil
}

// send hands what is recorded to the stream, in order, up to the end.
func (h *Host) send(ctx context.Context, s *sender, tail *recording.Tail) {
	out := h.End.Writer(shell.Events(s.life))
	var batch []byte
	for {
		recorded := false
		select {
		case <-h.recorded:
			recorded = true // before looking: there is nothing behind what the tail has then
		default:
		}
		e, ok, err := tail.Next()
		if err != nil {
			h.Log.Error("the record cannot be read", "error", err)
			h.end("its record cannot be read")
			return
		}
		if ok {
			batch = e.AppendFrame(batch)
		}
		if len(batch) > 0 && (!ok || len(batch) >= stream.MaxPayload) {
			n, err := out.WriteContext(ctx, batch)
			sent := s.sent.Add(int64(n))
			if sent > h.most.Load() {
				h.most.Store(sent)
			}
			notify(h.taken)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, stream.ErrStopped) { // which says that another life has begun
					h.end("the control plane ended it: " + fault.Of(err).Message)
				}
				return
			}
			batch = batch[:0]
			continue
		}
		if ok {
			continue
		}
		if recorded {
			_ = out.Close() // it does not fail
			return
		}
		if cap(batch) > 4<<10 {
			batch = nil // one who waits holds no memory
		}
		select {
		case <-s.more:
		case <-h.recorded:
		case <-ctx.Done():
			return
		}
	}
}

// input types what comes, each byte once.
func (h *Host) input(ctx context.Context, life int) {
	in, applied := h.End.Reader(shell.Life(life)+shell.Typed), h.End.Writer(shell.Applied(life))
	var buffer []byte
	chunk := make([]byte, 4<<10)
	for {
		n, err := in.Next(ctx, chunk)
		buffer = append(buffer, chunk[:n]...)
		for err == nil {
			i, size, bad := shell.ParseInput(buffer)
			if bad != nil {
				h.end("what was typed came damaged")
				return
			}
			if size == 0 {
				break
			}
			if err := h.typing(ctx, i, applied); err != nil {
				return
			}
			buffer = buffer[size:]
		}
		if err != nil {
			return
		}
		in.Ack(in.Offset() - uint64(len(buffer)))
		buffer = append([]byte(nil), buffer...)
	}
}

// maxTypists of one session, whose input is known apart.
const maxTypists = 1000

// typing types what was not typed before, and tells how far it has come.
func (h *Host) typing(ctx context.Context, i shell.Input, applied *stream.Writer) error {
	h.typists.Lock()
	defer h.typists.Unlock()
	at, known := h.applied[i.Origin]
	if end := i.Offset + uint64(len(i.Data)); i.Offset <= at && end > at && (known || len(h.applied) < maxTypists) {
		fresh := i.Data[at-i.Offset:]
		if h.order.Input {
			h.add(recording.Input, fresh)
		}
		if _, err := h.terminal.Write(fresh); err != nil {
			return err
		}
		h.typed.Store(int64(time.Since(h.began)))
		at = end
		h.applied[i.Origin] = at
	}
	// Where nobody wants to know it, or the session is over, the next read says the rest.
	_, _ = applied.WriteContext(ctx, (shell.Input{Origin: i.Origin, Offset: at}).Append(nil))
	return nil
}

// control does what a life of the control plane's end tells it.
func (h *Host) control(ctx context.Context, life int) {
	in := h.End.Reader(shell.Life(life) + shell.Control)
	var buffer []byte
	chunk := make([]byte, 512)
	for {
		n, err := in.Next(ctx, chunk)
		if err != nil {
			if ctx.Err() == nil { // the stream is over: the control plane wants no more of it
				h.end("the control plane ended it: " + fault.Of(err).Message)
			}
			return
		}
		buffer = append(buffer, chunk[:n]...)
		for {
			d, size, bad := shell.ParseDo(buffer)
			if bad != nil {
				h.end("what it was told came damaged")
				return
			}
			if size == 0 {
				break
			}
			h.do(ctx, life, d)
			buffer = buffer[size:]
		}
		in.Ack(in.Offset() - uint64(len(buffer)))
	}
}

func (h *Host) do(ctx context.Context, life int, d shell.Do) {
	switch d.Act {
	case shell.DoAgain:
		pos, err := strconv.ParseInt(d.Text, 10, 64)
		if err == nil {
			err = h.sendFrom(ctx, life, pos)
		}
		if err != nil {
			h.Log.Error("the record cannot be sent again", "from", d.Text, "error", err)
			h.End.Close(fault.Of(err))
			h.end("the record cannot be sent again: " + fault.Of(err).Message)
		}
	case shell.DoResize:
		cols, rows, ok := recording.ParseSize([]byte(d.Text))
		h.ending.Lock()
		t := h.terminal
		h.ending.Unlock()
		if !ok || cols > shell.MaxCols || rows > shell.MaxRows || t == nil {
			return
		}
		if err := t.resize(cols, rows); err == nil {
			h.add(recording.Resize, recording.Size(cols, rows))
		}
	case shell.DoMark:
		h.add(recording.Marker, []byte(clean(d.Text)))
	case shell.DoEnd:
		h.end(clean(d.Text))
	case shell.DoHold, shell.DoResume:
		h.ending.Lock()
		defer h.ending.Unlock()
		if d.Act == shell.DoHold {
			h.away = time.Since(h.began)
		} else {
			h.away = -1
		}
	}
}
