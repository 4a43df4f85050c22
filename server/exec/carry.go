package exec

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/stream"
)

// ErrUnknown says that an id is no order's.
var ErrUnknown = errors.New("no such order")

// carried is an order whose stream this replica has, or expects.
type carried struct {
	run       exec.Run
	host      exec.Host
	end       *stream.End
	came      chan struct{} // closes when its stream has
	once      sync.Once
	told      time.Time // guarded by Service.mu, as cancelled is
	cancelled bool
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
	rows, err := s.store.View().UnansweredExecHosts(ctx, runID)
	if err != nil || len(rows) == 0 {
		return err
	}
	actor, err := s.actor(ctx, r)
	if err != nil {
		return ignoreEnded(err) // the leader ends it
	}
	var here []exec.Host
	now := s.Now().UTC()
	for _, h := range rows {
		// A host begins on the order alone: that the stream is authorised comes too late for it.
		if !now.Before(h.NotAfter) || !s.links.Holds(h.HostID) || s.may(actor, r.By(), h.HostID) != nil {
			continue
		}
		if h.State == exec.Ready {
			here = append(here, h)
		} else if s.silent(h, now) {
			s.tell(r, h, now)
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
	for _, h := range taken {
		s.tell(r, h, now)
	}
	return nil
}

// again is how long a host that was told may say nothing before it is told again: its link may have been dead, and another stand now.
// A host that has the order passes over it.
const again = 2 * time.Second

func (s *Service) silent(h exec.Host, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.carried[h.ID]
	return now.Sub(h.Since) >= again && (c == nil || now.Sub(c.told) >= again)
}

// tell sends a host the order that its row, which says so, is about.
func (s *Service) tell(r exec.Run, h exec.Host, now time.Time) {
	s.carry(r, h)
	s.mu.Lock()
	if c := s.carried[h.ID]; c != nil {
		c.told = now
	}
	s.mu.Unlock()
	command := r.Command
	command.Stdin = r.Stdin
	s.links.Order(h.HostID, Order{
		ID: h.ID, NotAfter: h.NotAfter, Grant: r.Actor.Rule, Stream: s.streams.Name(h.ID), Credential: s.streams.Credential(h.ID), Command: command,
		Prompt: len(r.Stdin) == 0,
	}) // where the link has gone meanwhile, it is told again by the next
}

// cancel tells the hosts that carry a run here to end it: by the link, and by the stream for those whose link has gone.
func (s *Service) cancel(runID string) {
	s.mu.Lock()
	var carrying []*carried
	for _, c := range s.carried {
		if c.run.ID == runID && !c.cancelled {
			c.cancelled = true
			carrying = append(carrying, c)
		}
	}
	s.mu.Unlock()
	for _, c := range carrying {
		s.links.Word(c.host.HostID, c.host.ID, false, true)
	}
	line, _ := json.Marshal(exec.Control{Cancel: true}) // plain fields
	ctx, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	for _, c := range carrying {
		_, _ = c.end.Writer(exec.ControlNumber).WriteContext(ctx, append(line, '\n')) // one that is over needs no telling
	}
}

// carry expects the stream of an order and stores what it brings. What a host that answers on its link costs is a row in a map
// and a goroutine that waits.
func (s *Service) carry(r exec.Run, h exec.Host) {
	c := &carried{run: r, host: h, end: stream.New(stream.Options{}), came: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lifetime == nil || s.lifetime.Err() != nil || s.carried[h.ID] != nil {
		return
	}
	ctx := s.lifetime
	out := c.end.ReaderAt(exec.StdoutNumber, uint64(h.Stdout))
	errs := c.end.ReaderAt(exec.StderrNumber, uint64(h.Stderr))
	control := c.end.ReaderAt(exec.ControlNumber, 0)
	s.carried[h.ID] = c
	forget := s.streams.Expect(Session{ID: h.ID, HostID: h.HostID, End: c.end, Authorise: func(ctx context.Context) error {
		err := s.authorise(ctx, h)
		if err == nil {
			c.once.Do(func() { close(c.came) })
		}
		return err
	}})
	s.work.Go(func() {
		defer func() {
			forget()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.carried, h.ID)
		}()
		// The leader says what became of a host that is silent for so long; here is only nobody left to wait for it.
		late := time.AfterFunc(max(0, h.NotAfter.Sub(s.Now()))+r.Command.Timeout+startWithin+2*overdue, func() { c.end.Close(errSilent) })
		defer late.Stop()
		select {
		case <-c.came:
			s.begin(ctx, c)
			s.complain("store what came of a command", s.consume(ctx, r, h, c.end, out, errs, control))
		case <-c.end.Done():
		case <-ctx.Done():
		}
	})
}

// begin says go, and what the command is to read. A host that has it from an earlier replica is not sent it again.
func (s *Service) begin(ctx context.Context, c *carried) {
	line, _ := json.Marshal(exec.Control{}) // plain fields
	if _, err := c.end.Writer(exec.ControlNumber).WriteContext(ctx, append(line, '\n')); err != nil || len(c.run.Stdin) == 0 {
		return
	}
	s.work.Go(func() {
		w := c.end.Writer(exec.StdinNumber)
		_, _ = w.WriteContext(ctx, c.run.Stdin) // a command that does not read it is no fault
		_ = w.Close()
	})
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
