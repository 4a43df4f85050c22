package shell

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// record takes in what the host sends, and returns when nothing more comes, with why where the host did not say.
func (l *live) record() (reason string) {
	in := l.end.Reader(shell.Events(l.life))
	var buffer []byte
	for {
		_ = in.Await(l.over) // what ends it, Next says
		chunk := chunks.Get().(*[chunkSize]byte)
		n, err := in.Next(l.over, chunk[:])
		buffer = append(buffer, chunk[:n]...)
		chunks.Put(chunk)
		used := 0
		for {
			e, size, bad := recording.ParseFrame(buffer[used:])
			if bad != nil {
				l.end.Close(fault.Of(bad))
				return "the host sent what is no event"
			}
			if size == 0 {
				break
			}
			if err := l.add(e); err != nil {
				l.s.Logger.Error("a session cannot be recorded and ends", "session", l.id(), "error", err)
				l.end.Close(fault.New(fault.Exhausted, "shell_unrecorded", "the control plane cannot record it any further"))
				return "the control plane could not record it any further: " + fault.Of(err).Message
			}
			used += size
		}
		if used > 0 {
			notify(l.dirty)
			l.tellViewers()
			l.hold()
		}
		if buffer = buffer[used:]; len(buffer) == 0 {
			buffer = nil // an idle session holds no memory
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return ""
		default:
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ending != nil {
				return "" // only the goodbye is missing
			}
			return cmp.Or(l.why, "the host was lost: "+fault.Of(err).Message)
		}
	}
}

// chunks are what is read into.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

const chunkSize = 32 << 10

// add records an event and notes what it says.
func (l *live) add(e recording.Event) error {
	if err := l.writer.Add(e); err != nil {
		return err
	}
	switch e.Kind {
	case recording.Begin:
		l.mu.Lock()
		l.session.State, l.session.StartedAt = shell.Running, l.s.Now()
		l.mu.Unlock()
		l.store()
	case recording.Resize:
		l.mu.Lock()
		l.size = append([]byte(nil), e.Data...)
		l.mu.Unlock()
	case recording.Exit:
		var end recording.Ending
		_ = json.Unmarshal(e.Data, &end) // what cannot be read says nothing
		l.mu.Lock()
		l.ending = &end
		l.mu.Unlock()
	}
	return nil
}

// hold waits while a typist is far behind: the host is held back by what is not acknowledged.
func (l *live) hold() {
	for {
		l.mu.Lock()
		behind := false
		for v := range l.viewers {
			behind = behind || v.mode != Watching && l.writer.Extent().Bytes-v.took.Load() > maxBehind
		}
		moved := l.moved
		l.mu.Unlock()
		if !behind {
			return
		}
		select {
		case <-moved:
		case <-l.over.Done():
			return
		}
	}
}

// maxBehind is how many bytes a typist may have yet to see.
const maxBehind = 512 << 10

// sync makes what was recorded durable, and tells the host that it may forget it.
func (l *live) sync() {
	in := l.end.Reader(shell.Events(l.life))
	for {
		select {
		case <-l.dirty:
		case <-l.over.Done():
			return
		}
		wait := time.NewTimer(syncEvery)
		from := l.writer.Extent().Bytes
		for more := true; more; {
			select {
			case <-wait.C:
				more = false
			case <-l.dirty:
				more = l.writer.Extent().Bytes-from < syncBytes
			case <-l.over.Done():
				more = false
			}
		}
		wait.Stop()
		h, err := l.writer.Sync()
		if err != nil {
			l.end.Close(fault.New(fault.Exhausted, "shell_unrecorded", "the control plane cannot record it any further"))
			return
		}
		in.Ack(uint64(h.Bytes - l.base))
	}
}

// confirm notes how far typists' input was typed.
func (l *live) confirm() {
	in := l.end.Reader(shell.Applied(l.life))
	var buffer []byte
	chunk := make([]byte, 512)
	for {
		n, err := in.Next(l.over, chunk)
		buffer = append(buffer, chunk[:n]...)
		for {
			i, size, bad := shell.ParseInput(buffer)
			if bad != nil || size == 0 {
				break
			}
			l.mu.Lock()
			l.applied[i.Origin] = max(l.applied[i.Origin], i.Offset)
			l.mu.Unlock()
			buffer = buffer[size:]
		}
		if err == nil || errors.Is(err, io.EOF) {
			in.Ack(in.Offset() - uint64(len(buffer)))
		}
		if err != nil {
			return
		}
		buffer = append([]byte(nil), buffer...)
		l.tellViewers()
	}
}

// closing takes the head of the host's recording. It is acknowledged by conclude: until then another end may have to ask for it.
func (l *live) closing(ctx context.Context) {
	in := l.end.Reader(shell.Closing)
	b, err := io.ReadAll(io.LimitReader(readerContext{ctx, in}, 4<<10))
	var h recording.Head
	if err != nil || json.Unmarshal(b, &h) != nil || h.Session != l.id() {
		return
	}
	l.mu.Lock()
	l.head = &h
	l.mu.Unlock()
	l.move()
}

// readerContext reads until a context ends, and acknowledges nothing.
type readerContext struct {
	ctx context.Context
	*stream.Reader
}

func (r readerContext) Read(p []byte) (int, error) { return r.Next(r.ctx, p) }
