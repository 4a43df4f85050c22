package exec

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/stream"
)

// ErrUnknown says that an id is no order's.
var ErrUnknown = errors.New("no such order")

// How output is stored.
const (
	storeBytes = 256 << 10
	storeEvery = 100 * time.Millisecond
	showAfter  = time.Second // a command that lasts longer is shown as running
	partWithin = 10 * time.Second
)

// carried is an order whose stream this replica has, or expects.
type carried struct {
	run exec.Run
	end *stream.End
}

// dispatch tells the hosts that are linked here and whose turn has come, and ends what was cancelled.
func (s *Service) dispatch(ctx context.Context, runID string) error {
	r, err := s.store.View().Exec(ctx, runID)
	if err != nil || r.State != exec.Running {
		return err
	}
	if r.Cancelled {
		s.cancel(runID)
	}
	rows, err := s.store.View().ExecHosts(ctx, runID, 0)
	if err != nil {
		return err
	}
	var here []exec.Host
	now := s.Now().UTC()
	for _, h := range rows {
		if h.State == exec.Ready && now.Before(h.NotAfter) && s.links.Holds(h.HostID) {
			here = append(here, h)
		}
	}
	if len(here) == 0 {
		return nil
	}
	var taken []exec.Host
	err = s.store.Observe(ctx, func(tx Tx) error {
		taken = taken[:0]
		for _, h := range here {
			stored, err := tx.ExecHost(ctx, h.ID)
			if err != nil {
				return err
			}
			if stored.State != exec.Ready {
				continue // another replica has it
			}
			stored.State, stored.Replica, stored.Since = exec.Sent, s.Replica, now
			taken = append(taken, stored)
		}
		if len(taken) == 0 {
			return nil
		}
		return tx.PutExecHosts(ctx, runID, r.Scope, taken, nil)
	})
	if err != nil {
		return err
	}
	r.Command.Stdin = r.Stdin
	for _, h := range taken {
		s.carry(r, h)
		s.links.Order(h.HostID, Order{
			ID: h.ID, NotAfter: h.NotAfter, Grant: r.Actor.Rule, Stream: s.streams.Name(h.ID), Credential: s.streams.Credential(h.ID), Command: r.Command,
		}) // where the link has gone meanwhile, the host is silent, and said to be
	}
	return nil
}

// cancel tells the hosts that carry a run here to end it.
func (s *Service) cancel(runID string) {
	s.mu.Lock()
	var ends []*stream.End
	for _, c := range s.carried {
		if c.run.ID == runID {
			ends = append(ends, c.end)
		}
	}
	s.mu.Unlock()
	line, _ := json.Marshal(exec.Control{Cancel: true}) // plain fields
	ctx, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	for _, e := range ends {
		_, _ = e.Writer(exec.ControlNumber).WriteContext(ctx, append(line, '\n')) // one that is over needs no telling
	}
}

// carry expects the stream of an order and stores what it brings.
func (s *Service) carry(r exec.Run, h exec.Host) {
	end := stream.New(stream.Options{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lifetime == nil || s.lifetime.Err() != nil || s.carried[h.ID] != nil {
		return
	}
	ctx := s.lifetime
	out := end.ReaderAt(exec.StdoutNumber, uint64(h.Stdout))
	errs := end.ReaderAt(exec.StderrNumber, uint64(h.Stderr))
	control := end.ReaderAt(exec.ControlNumber, 0)
	s.carried[h.ID] = &carried{r, end}
	forget := s.streams.Expect(Session{ID: h.ID, HostID: h.HostID, End: end, Authorise: func(ctx context.Context) error { return s.authorise(ctx, h) }})
	s.work.Go(func() {
		defer func() {
			forget()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.carried, h.ID)
		}()
		s.complain("store what came of a command", s.consume(ctx, r, h, end, out, errs, control))
	})
	s.work.Go(func() {
		// Go, and what it is to read. A host that has it from an earlier replica is not sent it again.
		line, _ := json.Marshal(exec.Control{}) // plain fields
		if _, err := end.Writer(exec.ControlNumber).WriteContext(ctx, append(line, '\n')); err == nil && len(r.Stdin) > 0 {
			w := end.Writer(exec.StdinNumber)
			_, _ = w.WriteContext(ctx, r.Stdin) // a command that does not read it is no fault
			_ = w.Close()
		}
	})
}

// authorise is asked whenever the order's stream comes.
func (s *Service) authorise(ctx context.Context, h exec.Host) error {
	r, err := s.store.View().Exec(ctx, h.RunID)
	if err != nil {
		return err
	}
	row, err := s.store.View().ExecHost(ctx, h.ID)
	if err != nil {
		return err
	}
	known, ok := s.fleet.Host(h.HostID)
	switch {
	case !row.State.Open():
		return fault.New(fault.Precondition, "order_over", "the order is over: %s", row.State)
	case !ok || known.Lifecycle != host.LifecycleActive:
		return errNotManaged
	case !r.Cancelled && !s.allowed(r, known):
		return errNotAllowed
	}
	return nil
}

// Adopt takes over an order whose replica is gone, or was this one before it was restarted. ErrUnknown where there is none.
func (s *Service) Adopt(ctx context.Context, orderID string) error {
	h, err := s.store.View().ExecHost(ctx, orderID)
	if fault.KindOf(err) == fault.NotFound {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	r, err := s.store.View().Exec(ctx, h.RunID)
	if err != nil {
		return err
	}
	if h.State != exec.Sent && h.State != exec.OnHost {
		return fault.New(fault.Precondition, "order_over", "the order is over: %s", h.State)
	}
	err = s.store.Observe(ctx, func(tx Tx) error {
		if h, err = tx.ExecHost(ctx, orderID); err != nil {
			return err
		}
		if !h.State.Open() {
			return fault.New(fault.Precondition, "order_over", "the order is over: %s", h.State)
		}
		h.Replica = s.Replica
		return tx.PutExecHosts(ctx, h.RunID, r.Scope, []exec.Host{h}, nil)
	})
	if err != nil {
		return err
	}
	s.carry(r, h)
	return nil
}

// Reported takes a host's word on an order that led to no stream. It does not wait.
func (s *Service) Reported(hostID, orderID, state string, exitCode int, why *fault.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lifetime == nil || s.lifetime.Err() != nil {
		return
	}
	ctx := s.lifetime
	c := s.carried[orderID]
	s.work.Go(func() {
		err := s.put(ctx, orderID, func(h *exec.Host) bool {
			if h.HostID != hostID {
				return false
			}
			switch state {
			case "refused":
				h.State = exec.Refused
			case "indeterminate":
				h.State = exec.Indeterminate
				why = errIndeterminate
			case "done":
				h.State, h.Exited, h.ExitCode = outcome(exec.Result{ExitCode: exitCode}), true, exitCode
				why = errOutputLost
			default:
				return false
			}
			h.ErrorCode, h.Error, h.Hint = why.Code, why.Message, why.Hint
			return true
		}, nil)
		if err == nil && c != nil {
			c.end.Close(nil)
		}
		s.complain("note what a host says of an order", err)
	})
}

var (
	errIndeterminate = fault.New(fault.Unavailable, "order_indeterminate", "the command began, and its agent ended before it told how it went on")
	errOutputLost    = fault.New(fault.Unavailable, "order_repeated", "the command was done before, and what it wrote is not known any more")
	errGone          = errors.New("the order is over already")
)

// put changes the row of an order that is not over.
func (s *Service) put(ctx context.Context, orderID string, change func(*exec.Host) bool, output []exec.Output) error {
	return s.store.Observe(ctx, func(tx Tx) error {
		h, err := tx.ExecHost(ctx, orderID)
		if err != nil {
			return err
		}
		if !h.State.Open() {
			return errGone
		}
		r, err := tx.Exec(ctx, h.RunID)
		if err != nil {
			return err
		}
		if !change(&h) {
			return nil
		}
		if h.State.Over() {
			h.EndedAt = s.Now().UTC()
			s.metrics.hosts.WithLabelValues(string(h.State)).Inc()
		}
		return tx.PutExecHosts(ctx, h.RunID, r.Scope, []exec.Host{h}, output)
	})
}

func outcome(r exec.Result) exec.HostState {
	switch {
	case r.TimedOut:
		return exec.TimedOut
	case r.Cancelled:
		return exec.Ended
	case r.ErrorCode == "" && r.ExitCode == 0 && r.Signal == "":
		return exec.Done
	}
	return exec.Unsuccessful
}

// piece is something that came.
type piece struct {
	channel exec.Channel // empty: the result
	data    []byte
	result  exec.Result
	err     error // the channel is over: io.EOF, or the session is
}

// consume stores what a stream brings, until the command has ended or nothing comes of it any more.
func (s *Service) consume(ctx context.Context, r exec.Run, h exec.Host, end *stream.End, out, errs, control *stream.Reader) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pieces := make(chan piece, 4)
	give := func(p piece) bool {
		select {
		case pieces <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for channel, reader := range map[exec.Channel]*stream.Reader{exec.Stdout: out, exec.Stderr: errs} {
		s.work.Go(func() {
			for {
				data := make([]byte, 4<<10)
				n, err := reader.Next(ctx, data)
				if !give(piece{channel: channel, data: data[:n], err: err}) || err != nil {
					return
				}
			}
		})
	}
	s.work.Go(func() {
		line, err := io.ReadAll(io.LimitReader(unacknowledged{ctx, control}, 64<<10))
		p := piece{err: err}
		if err == nil {
			p.err = json.Unmarshal(line, &p.result)
		}
		give(p)
	})
	c := &collector{service: s, run: r, host: h}
	return c.collect(ctx, end, pieces, []*stream.Reader{out, errs, control})
}

// unacknowledged reads without an ack: the result counts once it is stored.
type unacknowledged struct {
	ctx context.Context
	*stream.Reader
}

func (u unacknowledged) Read(p []byte) (int, error) { return u.Next(u.ctx, p) }

// collector gathers pieces into transactions.
type collector struct {
	service *Service
	run     exec.Run
	host    exec.Host // as it is stored, with what is gathered
	output  []exec.Output
	size    int
	dirty   bool
}

func (c *collector) collect(ctx context.Context, end *stream.End, pieces <-chan piece, readers []*stream.Reader) error {
	s := c.service
	store := time.NewTimer(storeEvery)
	store.Stop()
	defer store.Stop()
	show := time.NewTimer(showAfter)
	defer show.Stop()
	// The leader says what became of a host that is silent for so long; here is only nobody left to wait for it.
	late := time.NewTimer(max(0, c.host.NotAfter.Sub(s.Now())) + c.run.Command.Timeout + startWithin + 2*overdue)
	defer late.Stop()
	open, armed := 3, false
	var result *exec.Result
	for {
		select {
		case p := <-pieces:
			if p.err != nil && !errors.Is(p.err, io.EOF) {
				_ = c.store(ctx) // what has come is kept
				return nil       // the session is over: whoever ended it has said why
			}
			if p.channel == "" {
				result = &p.result
				open--
			} else if p.err != nil {
				open--
			}
			c.add(p)
			if open == 0 {
				c.finish(*result)
				if err := c.store(ctx); err != nil {
					end.Close(nil)
					return ignoreGone(err)
				}
				c.ack(readers)
				part(ctx, end)
				return nil
			}
			if c.size >= storeBytes {
				if err := c.store(ctx); err != nil {
					end.Close(fault.Of(err))
					return ignoreGone(err)
				}
				c.ack(readers[:2])
			} else if c.dirty && !armed {
				armed = true
				store.Reset(storeEvery)
			}
		case <-store.C:
			armed = false
			if err := c.store(ctx); err != nil {
				end.Close(fault.Of(err))
				return ignoreGone(err)
			}
			c.ack(readers[:2])
		case <-show.C:
			if end.Counts().Attachments == 0 {
				show.Reset(showAfter)
				continue
			}
			c.host.State, c.host.Since, c.dirty = exec.OnHost, s.Now().UTC(), true
			if c.host.StartedAt.IsZero() {
				c.host.StartedAt = c.host.Since
			}
			if err := c.store(ctx); err != nil {
				end.Close(fault.Of(err))
				return ignoreGone(err)
			}
		case <-late.C:
			end.Close(errSilent)
			return nil
		case <-end.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// part waits until the host has heard that all is stored.
func part(ctx context.Context, end *stream.End) {
	timer := time.NewTimer(partWithin)
	defer timer.Stop()
	select {
	case <-end.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
	end.Close(nil)
}

// add takes a piece into what is to be stored, as far as it is kept.
func (c *collector) add(p piece) {
	if len(p.data) == 0 {
		return
	}
	at := &c.host.Stdout
	if p.channel == exec.Stderr {
		at = &c.host.Stderr
	}
	offset := *at
	*at += int64(len(p.data))
	c.size += len(p.data)
	c.dirty = true
	kept := p.data[:max(0, min(int64(len(p.data)), exec.MaxKept-offset))]
	if n := len(p.data) - len(kept); n > 0 {
		c.host.Dropped += int64(n)
		c.service.metrics.dropped.Add(float64(n))
	}
	if len(kept) == 0 {
		return
	}
	for i := range c.output {
		if o := &c.output[i]; o.Channel == p.channel && o.Offset+int64(len(o.Data)) == offset {
			o.Data = append(o.Data, kept...)
			return
		}
	}
	c.output = append(c.output, exec.Output{OrderID: c.host.ID, RunID: c.run.ID, HostID: c.host.HostID, Channel: p.channel, Offset: offset, Data: kept})
}

func (c *collector) finish(r exec.Result) {
	h := &c.host
	h.State, h.ExitCode, h.Exited, h.Signal = outcome(r), r.ExitCode, r.ErrorCode == "", clip(r.Signal)
	h.ErrorCode, h.Error, h.Hint = clip(r.ErrorCode), clip(r.Error), clip(r.Hint)
	if h.StartedAt = r.StartedAt.UTC(); h.StartedAt.IsZero() {
		h.StartedAt = c.service.Now().UTC()
	}
	c.dirty = true
}

// clip bounds what a host says of itself.
func clip(s string) string {
	if len(s) > 500 {
		return s[:500]
	}
	return s
}

// store writes what was gathered. While the database is away it waits: the host's ring fills, and its command waits with it.
func (c *collector) store(ctx context.Context) error {
	for c.dirty {
		err := c.service.put(ctx, c.host.ID, func(h *exec.Host) bool {
			replica := h.Replica
			*h = c.host
			h.Replica = replica
			return true
		}, c.output)
		if k := fault.KindOf(err); (k == fault.Unavailable || k == fault.Timeout) && ctx.Err() == nil {
			pause(ctx, lookEvery)
			continue
		}
		if err != nil {
			return err
		}
		c.output, c.size, c.dirty = nil, 0, false
	}
	return nil
}

// ack tells the host what is stored.
func (c *collector) ack(readers []*stream.Reader) {
	for i, r := range readers {
		switch i {
		case 0:
			r.Ack(uint64(c.host.Stdout))
		case 1:
			r.Ack(uint64(c.host.Stderr))
		default:
			r.Ack(r.Offset())
		}
	}
}
