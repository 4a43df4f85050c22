package exec

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
)

// Report is a host's word on an order, as its link brought it.
type Report struct {
	HostID, OrderID string
	State           string // refused, done, indeterminate, begun, ended
	ExitCode        int
	Why             *fault.Error

	Stdout, Stderr, Result []byte // of one that ended
}

// Reported takes a host's word on an order. It does not wait: what many hosts say at a time is stored at a time.
func (s *Service) Reported(r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
	notify(s.reported)
}

// reportsAtOnce is how many are stored in one transaction, which others wait for.
const reportsAtOnce = 256

// hear stores what hosts say, until ctx ends.
func (s *Service) hear(ctx context.Context) {
	for {
		select {
		case <-s.reported:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		reports := s.reports
		s.reports = nil
		s.mu.Unlock()
		for len(reports) > 0 && ctx.Err() == nil {
			n := min(len(reports), reportsAtOnce)
			// What cannot be stored now is not acknowledged: the host comes by its stream.
			s.complain("store what hosts say of orders", s.note(ctx, reports[:n]))
			reports = reports[n:]
		}
	}
}

// note stores reports, and tells the hosts that they are.
func (s *Service) note(ctx context.Context, reports []Report) error {
	var over []exec.Host
	err := s.store.Observe(ctx, func(tx Tx) error {
		over = over[:0]
		hosts, output, scopes := map[string][]exec.Host{}, map[string][]exec.Output{}, map[string]access.Scope{}
		said := map[string]bool{}
		for _, r := range reports {
			h, err := tx.ExecHost(ctx, r.OrderID)
			if fault.KindOf(err) == fault.NotFound {
				continue // of a run that was deleted, or a stranger's invention
			}
			if err != nil {
				return err
			}
			if h.HostID != r.HostID || !h.State.Open() || said[h.ID] || !s.apply(r, &h) {
				continue
			}
			said[h.ID] = true // a host that says two things at a time of one order says the second again
			if _, ok := scopes[h.RunID]; !ok {
				run, err := tx.Exec(ctx, h.RunID)
				if err != nil {
					return err
				}
				scopes[h.RunID] = run.Scope
			}
			hosts[h.RunID] = append(hosts[h.RunID], h)
			for channel, data := range map[exec.Channel][]byte{exec.Stdout: r.Stdout, exec.Stderr: r.Stderr} {
				if r.State == "ended" && len(data) > 0 {
					output[h.RunID] = append(output[h.RunID], exec.Output{OrderID: h.ID, RunID: h.RunID, HostID: h.HostID, Channel: channel, Data: data[:min(len(data), exec.MaxKept)]})
				}
			}
			if h.State.Over() {
				over = append(over, h)
			}
		}
		for run := range hosts {
			if err := tx.PutExecHosts(ctx, run, scopes[run], hosts[run], output[run]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, h := range over {
		s.metrics.hosts.WithLabelValues(string(h.State)).Inc()
		s.mu.Lock()
		c := s.carried[h.ID]
		s.mu.Unlock()
		if c != nil {
			c.end.Close(nil)
		}
	}
	for _, r := range reports {
		s.links.Word(r.HostID, r.OrderID, true, false) // also of one that is over: there is nothing more to bring
	}
	return nil
}

// apply notes in an order's row what its host says; false where that is nothing new, or nothing.
func (s *Service) apply(r Report, h *exec.Host) bool {
	now := s.Now().UTC()
	why := r.Why
	if why == nil {
		why = &fault.Error{}
	}
	switch r.State {
	case "begun":
		if h.State == exec.OnHost {
			return false
		}
		h.State, h.Since, h.StartedAt = exec.OnHost, now, now
		return true
	case "ended":
		var result exec.Result
		if h.Stdout+h.Stderr > 0 || json.Unmarshal(r.Result, &result) != nil {
			return false // its stream has brought some
		}
		h.Stdout, h.Stderr = int64(len(r.Stdout)), int64(len(r.Stderr))
		conclude(h, result, now)
		return true
	case "refused":
		h.State = exec.Refused
	case "indeterminate":
		h.State, why = exec.Indeterminate, errIndeterminate
	case "done":
		h.State, h.Exited, h.ExitCode = outcome(exec.Result{ExitCode: r.ExitCode}), true, r.ExitCode
		why = errOutputLost
	default:
		return false // of a newer host
	}
	h.ErrorCode, h.Error, h.Hint, h.EndedAt = clip(why.Code), clip(why.Message), clip(why.Hint), now
	return true
}

var (
	errIndeterminate = fault.New(fault.Unavailable, "order_indeterminate", "the command began, and its agent ended before it told how it went on")
	errOutputLost    = fault.New(fault.Unavailable, "order_repeated", "the command was done before, and what it wrote is not known any more")
	errGone          = errors.New("the order is over already")
)

// put changes the row of an order that is not over.
func (s *Service) put(ctx context.Context, r exec.Run, orderID string, change func(*exec.Host), output []exec.Output) error {
	var state exec.HostState
	err := s.store.Observe(ctx, func(tx Tx) error {
		h, err := tx.ExecHost(ctx, orderID)
		if err != nil {
			return err
		}
		if !h.State.Open() {
			return errGone
		}
		change(&h)
		if state = h.State; state.Over() {
			h.EndedAt = s.Now().UTC()
		}
		return tx.PutExecHosts(ctx, h.RunID, r.Scope, []exec.Host{h}, output)
	})
	if err == nil && state.Over() {
		s.metrics.hosts.WithLabelValues(string(state)).Inc()
	}
	return err
}

// conclude notes how the command ended, as its host says.
func conclude(h *exec.Host, r exec.Result, now time.Time) {
	h.State, h.ExitCode, h.Exited, h.Signal = outcome(r), r.ExitCode, r.ErrorCode == "", clip(r.Signal)
	h.ErrorCode, h.Error, h.Hint = clip(r.ErrorCode), clip(r.Error), clip(r.Hint)
	if h.StartedAt, h.EndedAt = r.StartedAt.UTC(), now; r.StartedAt.IsZero() {
		h.StartedAt = now
	}
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

// clip bounds what a host says of itself.
func clip(s string) string {
	if len(s) > 500 {
		return s[:500]
	}
	return s
}
