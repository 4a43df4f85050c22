package file

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// How long things may take.
const (
	startWithin = 10 * time.Second // an order is void after it
	lostAfter   = 10 * time.Second // without a connection of the host
	endWithin   = 10 * time.Second
	noteEvery   = 2 * time.Second // how far it has come
	chunk       = 256 << 10
)

// attempt is a transfer that goes on here.
type attempt struct {
	s    *Service
	t    file.Transfer
	end  *stream.End
	word *bufio.Reader // what the host says
	stop func()
}

// begin makes an attempt that goes on from a byte. The host is told.
func (s *Service) begin(ctx context.Context, transfer string, kinds []file.Kind, offset int64) (*attempt, error) {
	actor := access.ActorFrom(ctx)
	t, err := s.store.View().FileTransfer(ctx, transfer)
	if err != nil {
		return nil, err
	}
	h, ok := s.fleet.Host(t.HostID)
	if !ok {
		return nil, errNotManaged
	}
	actor.Reason, actor.Ticket = t.Actor.Reason, t.Actor.Ticket // with which it was begun
	need := t.Task.Kind.Permission()
	if err := actor.RequireHost(need, t.Scope, h.ID, h.Labels, file.Read, "file transfer "+transfer); err != nil {
		return nil, err
	}
	ofKind := false
	for _, k := range kinds {
		ofKind = ofKind || k == t.Task.Kind
	}
	switch {
	case t.Actor.ID != actor.ID:
		return nil, fault.New(fault.Denied, "file_not_yours", "the transfer was begun by %s", t.Actor.Name).WithHint("begin one of your own")
	case !ofKind:
		return nil, fault.New(fault.Invalid, "file_direction", "the transfer's kind is %s: its bytes go the other way", t.Task.Kind)
	case t.State.Over():
		return nil, errOver(t)
	case offset < 0 || t.Task.Size >= 0 && offset > t.Task.Size, t.Task.Kind == file.OfHost && offset > 0:
		return nil, fault.New(fault.Invalid, "file_offset_invalid", "the transfer has no byte %d to go on from", offset)
	}
	if err := s.able(*h, t.Task.Kind); err != nil {
		return nil, err
	}
	err = s.store.Observe(ctx, func(tx Tx) (err error) {
		if t, err = tx.FileTransfer(ctx, transfer); err != nil {
			return err
		}
		if t.State.Over() {
			return errOver(t)
		}
		now := s.Now().UTC()
		t.Attempt++
		t.State, t.OrderID, t.NotAfter, t.Sent, t.Replica, t.Task.Offset = file.Running, id.New("fto", now), now.Add(startWithin), false, s.Replica, offset
		t.ErrorCode, t.Error, t.Hint = "", "", ""
		t, err = tx.PutFileTransfer(ctx, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.overtake(t)
	a := &attempt{s: s, t: t, end: stream.New(stream.Options{Window: file.Window})}
	a.word = bufio.NewReader(io.LimitReader(a.end.Reader(file.WordNumber), 64<<10))
	forget := s.streams.Expect(Session{ID: t.OrderID, HostID: t.HostID, End: a.end, Authorise: a.authorise})
	s.mu.Lock()
	s.live[t.ID] = a
	s.mu.Unlock()
	guarding, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var guard sync.WaitGroup
	guard.Go(func() { a.guard(guarding) })
	a.stop = func() {
		cancel()
		guard.Wait()
		forget()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.live[t.ID] == a {
			delete(s.live, t.ID)
		}
	}
	if err := s.dispatch(ctx, t); err != nil { // the feed brings it here once more
		s.Logger.Warn("file: cannot tell a host", "transfer", t.ID, "error", err)
	}
	return a, nil
}

// authorise is asked whenever the host's stream comes.
func (a *attempt) authorise(ctx context.Context) error {
	t, err := a.s.store.View().FileTransfer(ctx, a.t.ID)
	switch {
	case err != nil:
		return err
	case t.State.Over():
		return errOver(t)
	case t.Attempt != a.t.Attempt:
		return errOvertaken
	case !a.allowed():
		return file.ErrNotAllowed
	}
	return nil
}

// allowed asks whether whoever began the transfer may do so now.
func (a *attempt) allowed() bool {
	h, ok := a.s.fleet.Host(a.t.HostID)
	if !ok || h.Lifecycle != host.LifecycleActive {
		return false
	}
	need := a.t.Task.Kind.Permission()
	return a.t.Actor.Under(a.s.Policy, need).DecideOn(need, h.Scope, h.ID, h.Labels).Allowed
}

// guard ends the attempt once the right to it has, or its host is lost, and notes how far it has come.
func (a *attempt) guard(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	rules := a.s.Policy.Changed()
	began, seen, noted := time.Now(), time.Now(), time.Now()
	at := a.at()
	for {
		select {
		case <-rules:
			rules = a.s.Policy.Changed()
			if !a.allowed() {
				a.end.Close(file.ErrNotAllowed)
			}
		case <-tick.C:
			if a.end.Attached() {
				seen = time.Now()
			}
			switch {
			case a.end.Counts().Attachments == 0 && time.Since(began) > startWithin:
				a.end.Close(errNoAnswer)
			case time.Since(seen) > lostAfter:
				a.end.Close(errLost)
			}
			if now := a.at(); now != at && time.Since(noted) >= noteEvery {
				noting, cancel := context.WithTimeout(ctx, endWithin)
				if _, err := a.s.put(noting, a.t, func(t *file.Transfer) { t.Task.Offset = now }); err == nil {
					at, noted = now, time.Now()
				}
				cancel()
			}
		case <-a.end.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// at is up to where the host has, or was taken, the file.
func (a *attempt) at() int64 {
	if a.t.Task.Kind == file.ToHost {
		return a.t.Task.Offset + int64(a.end.Writer(file.DataNumber).Consumed())
	}
	return a.t.Task.Offset + int64(a.end.Reader(file.DataNumber).Offset())
}

// says is the next word of the host.
func (a *attempt) says(ctx context.Context) (file.Word, error) {
	defer context.AfterFunc(ctx, func() { a.end.Close(errSuspended) })()
	line, err := a.word.ReadBytes('\n')
	var w file.Word
	if err == nil {
		if err = json.Unmarshal(line, &w); err == nil && w.Ready == nil && w.Result == nil {
			err = stream.ErrMalformed
		}
	}
	return w, err
}

// finish writes what came of the attempt, and has the host hear that it was taken.
func (a *attempt) finish(ctx context.Context, result *file.Result, failed error) (file.Transfer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if failed != nil && a.end.Err() != nil && !errors.Is(a.end.Err(), stream.ErrDone) {
		failed = a.end.Err() // which is why
	}
	if result != nil && failed == nil {
		if f := result.Fault(); f != nil {
			failed = f
		}
	}
	f := fault.Of(failed)
	if failed != nil && f.Kind == fault.Internal { // of a connection, whose words say nothing to others
		f = errSuspended.WithCause(failed)
		failed = f
	}
	final := result != nil || errors.Is(failed, file.ErrNotAllowed) || errors.Is(failed, errTooLarge)
	if errors.Is(failed, file.ErrOffset) {
		final = false
	}
	t, err := a.s.put(ctx, a.t, func(t *file.Transfer) {
		switch {
		case failed == nil:
			t.State, t.Task.Size, t.Task.SHA256, t.Task.Offset = file.Succeeded, result.Size, result.SHA256, result.Size
			if result.Mode != 0 {
				t.Task.Mode, t.Task.Owner = result.Mode, result.Owner
			}
		case final:
			t.State = file.Failed
		default:
			t.State, t.Task.Offset = file.Waiting, a.at()
			if errors.Is(failed, file.ErrOffset) {
				t.Task.Offset = min(max(result.Size, 0), a.t.Task.Offset)
			}
		}
		if failed != nil {
			t.ErrorCode, t.Error, t.Hint = f.Code, f.Message, f.Hint
		}
	})
	a.s.metrics.bytes.WithLabelValues(string(a.t.Task.Kind)).Add(float64(a.at() - a.t.Task.Offset))
	if err == nil && result != nil { // the host hears that its word was taken
		stop := context.AfterFunc(ctx, func() { a.end.Close(nil) })
		_, _ = a.word.ReadByte() // its end
		stop()
		select {
		case <-a.end.Done():
		case <-ctx.Done():
		}
	}
	if failed == nil {
		failed = err
	}
	a.end.Close(failed)
	a.stop()
	return t, failed
}

// Send brings a file's bytes from a byte on. An error of kind Unavailable, and file.ErrOffset, says that the transfer can go on, from
// the offset that it has then.
func (s *Service) Send(ctx context.Context, transfer string, offset int64, from io.Reader) (file.Transfer, error) {
	a, err := s.begin(ctx, transfer, []file.Kind{file.ToHost}, offset)
	if err != nil {
		return file.Transfer{}, err
	}
	w := a.end.Writer(file.DataNumber)
	buffer := make([]byte, chunk)
	left := a.t.Task.Size - offset
	for left > 0 && err == nil {
		var n int
		n, err = from.Read(buffer[:min(left, chunk)])
		if left -= int64(n); n > 0 {
			if _, failed := w.WriteContext(ctx, buffer[:n]); failed != nil {
				err = failed
				break
			}
		}
		if err == io.EOF {
			err = nil
			if left > 0 {
				err = errSuspended.WithCause(io.ErrUnexpectedEOF)
			}
			break
		}
	}
	var result *file.Result
	switch {
	case err == nil, errors.Is(err, stream.ErrStopped): // the host wants no more of it, and says why
		_ = w.Close()
		var word file.Word
		if word, err = a.says(ctx); err == nil {
			if result = word.Result; result == nil {
				err = stream.ErrMalformed
			}
		}
	}
	return a.finish(ctx, result, err)
}

// Receive fetches a file's bytes from a byte on. begin is told what they are of, once that is known, and says where they go.
func (s *Service) Receive(ctx context.Context, transfer string, offset int64, begin func(file.Transfer) (io.Writer, error)) (file.Transfer, error) {
	a, err := s.begin(ctx, transfer, []file.Kind{file.FromHost, file.OfHost}, offset)
	if err != nil {
		return file.Transfer{}, err
	}
	var result *file.Result
	word, err := a.says(ctx)
	if err == nil {
		if result = word.Result; result == nil {
			result, err = a.receive(ctx, *word.Ready, begin)
		}
	}
	return a.finish(ctx, result, err)
}

func (a *attempt) receive(ctx context.Context, ready file.Ready, begin func(file.Transfer) (io.Writer, error)) (*file.Result, error) {
	most := int64(file.MaxSize)
	if a.t.Task.Kind == file.OfHost {
		most = file.MaxBundle
	}
	if ready.Size > most {
		return nil, errTooLarge.WithHint("it has %d bytes", ready.Size)
	}
	t, err := a.s.put(ctx, a.t, func(t *file.Transfer) {
		t.Task.Size, t.Task.Mode, t.Task.Version = ready.Size, ready.Mode&0o777, ready.Version[:min(len(ready.Version), 100)]
	})
	if err != nil {
		return nil, err
	}
	out, err := begin(t)
	if err != nil {
		return nil, err
	}
	data := a.end.Reader(file.DataNumber)
	buffer := make([]byte, chunk)
	for got := t.Task.Offset; ; {
		n, err := data.Next(ctx, buffer)
		if n > 0 {
			if got += int64(n); got > most || ready.Size >= 0 && got > ready.Size {
				return nil, errTooLarge
			}
			if _, err := out.Write(buffer[:n]); err != nil {
				return nil, errSuspended.WithCause(fmt.Errorf("hand on: %w", err))
			}
			data.Ack(data.Offset())
		}
		if err == io.EOF {
			data.Ack(data.Offset())
			break
		}
		if err != nil {
			return nil, err
		}
	}
	word, err := a.says(ctx)
	if err == nil && word.Result == nil {
		err = stream.ErrMalformed
	}
	return word.Result, err
}

func describe(t file.Transfer) record {
	r := record{Host: t.HostID, Name: t.HostName, Kind: t.Task.Kind, Path: t.Task.Path, Size: t.Task.Size, SHA256: t.Task.SHA256, Owner: t.Task.Owner,
		State: t.State, Error: t.Error, Attempt: t.Attempt}
	if t.Task.Mode != 0 {
		r.Mode = fmt.Sprintf("%04o", t.Task.Mode)
	}
	return r
}
