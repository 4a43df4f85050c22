package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// blame counts how often an entry was refused alone. Often enough, it is to be set aside, unless so many were before it that
// it must be the sink.
func (c *courier) blame(s sink.Sink, e audit.Entry, failure error) (*sink.DeadLetter, error) {
	if c.blamed != e.Position {
		c.blamed, c.refused = e.Position, 0
	}
	c.refused++
	switch {
	case c.refused < refusals:
		return nil, failure
	case s.Refused >= setAside:
		return nil, fmt.Errorf("%w; it refused %d entries before this one and took none between: mend the receiver, or the sink's format", failure, s.Refused)
	}
	now := c.shipper.options.Now()
	c.shipper.options.Logger.Warn("a sink of the audit log refuses an entry; it is set aside", "sink", s.Name, "entry", e.ID, "error", short(failure))
	return &sink.DeadLetter{
		ID: id.New("dlt", now), Sink: s.ID, Position: e.Position, Entry: e.ID, Action: e.Action, Reason: short(failure), Tries: c.refused, At: now.UTC(),
	}, nil
}

// resend tries one of the dead letters that are to be tried once more. again says that it did.
func (c *courier) resend(ctx context.Context, s sink.Sink) (again bool, err error) {
	store := c.shipper.service.store
	waiting, _, err := store.View().DeadLetters(ctx, sink.DeadLetterQuery{Sink: s.ID, Resend: true, Page: tenant.Page{Size: 1}})
	if err != nil || len(waiting) == 0 {
		return false, err
	}
	l := waiting[0]
	found, err := store.View().EntriesOf(ctx, s.Organisation, l.Position-1, 1)
	if err != nil {
		return false, err
	}
	var failure error
	if len(found) == 0 || found[0].Position != l.Position {
		failure = fmt.Errorf("%w: the entry's body was deleted meanwhile", errRefused)
	} else {
		failure = c.send(ctx, s, encode(found[0], s.Format, limitOf(s)))
		c.shipper.options.Watch(s.Name, 1, failure)
	}
	now := c.shipper.options.Now
	err = store.Observe(ctx, func(tx Tx) error {
		k, err := c.held(ctx, tx)
		if err != nil {
			return err
		}
		switch {
		case failure == nil:
			k.Delivered, k.Failures, k.Refused, k.DeliveredAt = k.Delivered+1, 0, 0, now().UTC()
			err = tx.DeleteDeadLetters(ctx, s.ID, l.Position-1, l.Position)
		case errors.Is(failure, errRefused), errors.Is(failure, errTooLarge):
			l.Resend, l.Tries, l.Reason, l.At = false, l.Tries+1, short(failure), now().UTC()
			err = tx.PutDeadLetter(ctx, l)
		default:
			k.Failures, k.LastError, k.FailedAt = k.Failures+1, short(failure), now().UTC()
		}
		return errors.Join(err, tx.MoveSink(ctx, k))
	})
	if failure != nil && !errors.Is(failure, errRefused) && !errors.Is(failure, errTooLarge) {
		return false, errors.Join(failure, err)
	}
	return true, err
}

// DeadLetters of a sink that the caller may see, in the order of their entries.
func (s *Service) DeadLetters(ctx context.Context, ref string, page tenant.Page) ([]sink.DeadLetter, string, error) {
	k, err := s.find(ctx, ref, sink.Read)
	if err != nil {
		return nil, "", err
	}
	return s.store.View().DeadLetters(ctx, sink.DeadLetterQuery{Sink: k.ID, Page: page})
}

// CountDeadLetters of a sink that the caller was shown.
func (s *Service) CountDeadLetters(ctx context.Context, k sink.Sink) (int64, error) {
	return s.store.View().CountDeadLetters(ctx, k.ID)
}

// ResendDeadLetters has those named, or all of a sink's, tried once more. It returns how many.
func (s *Service) ResendDeadLetters(ctx context.Context, ref string, ids []string) (int, error) {
	return s.eachDeadLetter(ctx, ref, ids, "resend", func(tx Tx, l sink.DeadLetter) error {
		l.Resend = true
		return tx.PutDeadLetter(ctx, l)
	})
}

// DismissDeadLetters gives those named up, or all of a sink's: the receiver will not get these entries, unless by a replay.
// It returns how many.
func (s *Service) DismissDeadLetters(ctx context.Context, ref string, ids []string) (int, error) {
	return s.eachDeadLetter(ctx, ref, ids, "dismiss", func(tx Tx, l sink.DeadLetter) error {
		return tx.DeleteDeadLetters(ctx, l.Sink, l.Position-1, l.Position)
	})
}

// eachDeadLetter does something with a sink's dead letters, and says in the audit log with which entries.
func (s *Service) eachDeadLetter(ctx context.Context, ref string, ids []string, what string, do func(Tx, sink.DeadLetter) error) (int, error) {
	k, err := s.find(ctx, ref, sink.Update)
	if err != nil {
		return 0, err
	}
	var chosen []sink.DeadLetter
	for q := (sink.DeadLetterQuery{Sink: k.ID, Page: tenant.Page{Size: tenant.MaxPage}}); ; {
		page, next, err := s.store.View().DeadLetters(ctx, q)
		if err != nil {
			return 0, err
		}
		for _, l := range page {
			if len(ids) == 0 || slices.Contains(ids, l.ID) || slices.Contains(ids, l.Entry) {
				chosen = append(chosen, l)
			}
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	for _, one := range ids {
		if !slices.ContainsFunc(chosen, func(l sink.DeadLetter) bool { return l.ID == one || l.Entry == one }) {
			return 0, fault.New(fault.NotFound, "dead_letter_not_found", "sink %s has no dead letter %s", k.Name, one).
				WithHint("loopback sink dead-letters %s shows those that it has", k.Name)
		}
	}
	if len(chosen) == 0 {
		return 0, nil
	}
	entries := make([]string, len(chosen))
	for i, l := range chosen {
		entries[i] = l.Entry
	}
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		for _, l := range chosen {
			if err := do(tx, l); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Of(actor, sink.Update, k.Scope(), k.ID, k.Name).Change(nil, map[string]string{what: strings.Join(entries, " ")}))
	})
	return len(chosen), err
}
