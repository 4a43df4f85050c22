package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

const (
	atOnce = 2048             // entries hashed between two swaps
	lease  = 10 * time.Second // for which one replica numbers
)

// errOther says that somebody else swapped first, or holds the lease: they go on.
var errOther = errors.New("another replica numbers the audit log")

// Run numbers and signs until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.options.Every)
	defer tick.Stop()
	var said string
	for {
		err := s.Advance(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		case err.Error() != said: // once, not every second
			said = err.Error()
			s.options.Logger.Error("the audit log is not being signed", "error", err, "hint", fault.Of(err).Hint)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Advance brings everything that is committed under a checkpoint, unless another replica is at it.
func (s *Service) Advance(ctx context.Context) error {
	l, waiting, err := s.advance(ctx)
	if errors.Is(err, errOther) {
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.Number != 0 {
		s.status.Size, s.status.SignedAt, s.status.Waiting = l.Signed, l.SignedAt, waiting
	}
	if ctx.Err() == nil {
		s.status.Halted = err
	}
	return err
}

func (s *Service) advance(ctx context.Context) (l ledger.Log, waiting int64, err error) {
	if l, err = s.current(ctx); err != nil {
		return l, 0, err
	}
	if l, err = s.rotate(ctx, l); err != nil {
		return l, 0, err
	}
	for {
		position, err := s.store.View().AuditPosition(ctx)
		if err != nil {
			return l, 0, err
		}
		waiting = position - l.Began - l.Signed
		if err := s.remembered(ctx, l); err != nil {
			return l, waiting, err
		}
		if l.Size == l.Signed && waiting == 0 {
			return l, 0, nil
		}
		if l.LeaseOwner != s.options.Owner && s.options.Now().Before(l.LeaseUntil) {
			return l, waiting, errOther
		}
		grown := l
		if position > l.Began+l.Size {
			if grown, err = s.grow(ctx, l); err != nil {
				return l, waiting, err
			}
		}
		l = grown
		if l.Began+l.Size < position && l.Size-l.Signed < 16*atOnce {
			continue // behind: one checkpoint for a lot
		}
		if l, err = s.sign(ctx, l); err != nil {
			return l, waiting, err
		}
	}
}

// current is the log of this epoch, begun where there is none.
func (s *Service) current(ctx context.Context) (ledger.Log, error) {
	logs, err := s.store.View().AuditLogs(ctx)
	if err != nil {
		return ledger.Log{}, err
	}
	if len(logs) > 0 && logs[0].Number == s.options.Epoch {
		return logs[0], nil
	}
	var out ledger.Log
	err = s.store.Observe(ctx, func(tx Tx) error {
		logs, err := tx.AuditLogs(ctx)
		if err != nil {
			return err
		}
		out = ledger.Log{Number: s.options.Epoch, Root: ledger.Empty}
		if len(logs) > 0 {
			before := logs[0]
			if before.Number >= s.options.Epoch {
				if out = before; before.Number > s.options.Epoch {
					return errOther // a replica that did not hear of a restore
				}
				return nil
			}
			// What the old log's checkpoint does not cover is in the new one; it is never signed as the old one's.
			out.Began, out.Previous, out.Pruned, out.Handovers = before.Began+before.Signed, before.Checkpoint, before.Pruned, before.Handovers
		}
		out.Origin = ledger.Origin(s.options.Deployment, out.Number, out.Previous)
		return tx.PutAuditLog(ctx, out)
	})
	return out, err
}

// grow hashes the next entries and swaps them in.
func (s *Service) grow(ctx context.Context, l ledger.Log) (ledger.Log, error) {
	g, err := ledger.Grow(l.Size, s.tiles(ctx, s.store.View(), l.Number))
	if err != nil {
		return l, broken(err)
	}
	if g.Root() != l.Root {
		return l, broken(errors.New("the hashes do not give the root that was signed"))
	}
	entries, err := s.store.View().EntriesFrom(ctx, l.Began+l.Size, atOnce)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		if want := l.Began + g.Size() + 1; e.Position != want {
			return l, broken(fmt.Errorf("the entry of position %d is not there", want))
		}
		if err := g.Add(ledger.LeafHash(ledger.Encode(e))); err != nil {
			return l, broken(err)
		}
	}
	if len(entries) == 0 {
		return l, broken(fmt.Errorf("the entry of position %d is not there", l.Began+l.Size+1))
	}
	var out ledger.Log
	err = s.store.Observe(ctx, func(tx Tx) error {
		if out, err = s.held(ctx, tx, l); err != nil {
			return err
		}
		if out.Size != l.Size || out.Root != l.Root {
			return errOther
		}
		out.Size, out.Root = g.Size(), g.Root()
		if err := tx.PutAuditTiles(ctx, l.Number, g.Changed()); err != nil {
			return err
		}
		return tx.PutAuditLog(ctx, out)
	})
	return out, err
}

// sign signs what was swapped in and notes the checkpoint, unless a larger one is there already.
func (s *Service) sign(ctx context.Context, l ledger.Log) (ledger.Log, error) {
	note := ledger.Checkpoint{Origin: l.Origin, Size: l.Size, Root: l.Root}.Sign(s.Key().Name, s.signer())
	var out ledger.Log
	err := s.store.Observe(ctx, func(tx Tx) error {
		var err error
		if out, err = s.held(ctx, tx, l); err != nil {
			return err
		}
		if out.Signed >= l.Size {
			return errOther
		}
		out.Checkpoint, out.Signed, out.SignedAt = note, l.Size, s.options.Now().UTC()
		if len(out.Handovers) > 0 && len(s.Key().Chain(out.Handovers)) == 1 {
			out.Handovers = nil // the key that they led to is lost: nothing leads to this one
		}
		return tx.PutAuditLog(ctx, out)
	})
	if err != nil {
		return l, err
	}
	if err := s.options.Memory.Store(note); err != nil {
		return out, fmt.Errorf("remembering the checkpoint: %w", err)
	}
	return out, nil
}

// held is the log as it is now, with the lease taken or renewed. A replica of an earlier version leaves it to those of the later
// one: entries may say more than it knows of, and it would hash them without. Asked in the transaction that swaps, this holds of every
// entry that was read before.
func (s *Service) held(ctx context.Context, tx Tx, l ledger.Log) (ledger.Log, error) {
	newer, err := tx.SchemaNewer(ctx)
	if err != nil {
		return l, err
	}
	if newer {
		return l, errOther
	}
	logs, err := tx.AuditLogs(ctx)
	if err != nil {
		return l, err
	}
	if len(logs) == 0 || logs[0].Number != l.Number {
		return l, errOther
	}
	now, held := s.options.Now(), logs[0]
	if held.LeaseOwner != s.options.Owner && now.Before(held.LeaseUntil) {
		return l, errOther
	}
	held.LeaseOwner, held.LeaseUntil = s.options.Owner, now.Add(lease).UTC()
	return held, nil
}

// remembered holds the log, once, against the last checkpoint that this machine remembers.
func (s *Service) remembered(ctx context.Context, l ledger.Log) error {
	s.mu.Lock()
	checked := s.checked == l.Origin
	s.mu.Unlock()
	if checked {
		return nil
	}
	note, err := s.options.Memory.Load()
	if err != nil {
		return err
	}
	if note != "" {
		c, err := s.Key().Chain(l.Handovers).Open(note)
		if err != nil {
			return fault.New(fault.Precondition, "audit_memory_damaged", "the file that remembers the last checkpoint of the audit log is damaged").WithCause(err).
				WithHint("restore audit.checkpoint among the keys from a backup; without one, move it aside: what this machine saw is forgotten then")
		}
		// Another origin: a backup was restored since, which the new log's name says.
		if c.Origin == l.Origin {
			if c.Size > l.Size {
				return rolledBack(fmt.Errorf("it has %d leaves; %d were signed for", l.Size, c.Size))
			}
			root, err := s.tree(ctx, l.Number).Root(c.Size)
			if err != nil {
				return broken(err)
			}
			if root != c.Root {
				return rolledBack(fmt.Errorf("its first %d leaves are not those that were signed for", c.Size))
			}
		}
	}
	s.mu.Lock()
	s.checked = l.Origin
	s.mu.Unlock()
	return nil
}

func rolledBack(err error) error {
	return fault.New(fault.Precondition, "audit_log_rolled_back", "the audit log in the database is not the one that was signed").WithCause(err).
		WithHint("if an older database was put back, do it with loopbackd restore, which begins a new log; otherwise keep the database as evidence")
}

func broken(err error) error {
	return fault.New(fault.Precondition, "audit_log_broken", "the audit log in the database is not whole").WithCause(err).
		WithHint("keep the database as evidence, and restore a backup: loopbackd restore")
}
