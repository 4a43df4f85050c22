package sink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/sink"
)

// errNotOurs ends a courier: its sink is gone, paused, or another replica's.
var errNotOurs = errors.New("the sink is not this replica's to serve")

// courier ships to one sink.
type courier struct {
	shipper *Shipper
	id      string
	name    string
	owner   string

	sender   Sender
	revision int64     // of the sink that the sender was opened for
	reached  int64     // position up to which there is nothing left to send
	noted    time.Time // when that was last written down
	told     time.Time // when a checkpoint was last sent along
	head     int64
	letters  int64

	most    int   // entries in a batch while one that is refused is being looked for; 0: as many as fit
	blamed  int64 // position of the entry that was refused alone
	refused int64 // how often
}

// parcel is what is sent next.
type parcel struct {
	from, upTo int64 // positions: after the one up to the other
	entries    []audit.Entry
	events     []Event
	checkpoint string // that is sent along
	more       bool   // there are others behind
}

func (c *courier) close() {
	if c.sender != nil {
		_ = c.sender.Close() // what it had was answered for, or comes again
		c.sender = nil
	}
}

func (c *courier) run(ctx context.Context) error {
	for failures := int64(0); ; {
		more, err := c.once(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNotOurs), fault.KindOf(err) == fault.NotFound && err != nil:
			return errNotOurs
		}
		wait := c.shipper.options.Every
		if err != nil {
			failures++
			wait = min(longestWait, wait<<min(failures-1, 16))
			wait = wait/2 + rand.N(wait/2+1)
			if errors.Is(err, errTooLarge) && failures < 12 {
				wait = 0 // it is asked again at once, for less
			}
		} else {
			failures = 0
			if more {
				continue
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// once makes sure of the lease, sends the next entries and moves the cursor. more says that there are others behind.
func (c *courier) once(ctx context.Context) (more bool, err error) {
	s, err := c.claim(ctx)
	if err != nil {
		return false, err
	}
	view := c.shipper.service.store.View()
	if c.head, err = view.AuditPosition(ctx); err != nil {
		return false, err
	}
	if c.letters, err = view.CountDeadLetters(ctx, s.ID); err != nil {
		return false, err
	}
	if s.Revision != c.revision {
		c.close()
	}
	if c.letters > 0 {
		if again, err := c.resend(ctx, s); again || err != nil {
			c.report(s, err)
			return again, err
		}
	}
	p, err := c.pack(ctx, s)
	if err != nil {
		return false, err
	}
	if len(p.events) > 0 {
		err = c.send(ctx, s, p.events)
		c.shipper.options.Watch(s.Name, len(p.entries), err)
	}
	return c.settle(ctx, s, p, err)
}

// claim is the sink as it is, with our lease on it.
func (c *courier) claim(ctx context.Context) (s sink.Sink, err error) {
	store := c.shipper.service.store
	if s, err = store.View().Sink(ctx, c.id); err != nil {
		return s, err
	}
	if !s.Paused && s.LeaseOwner == c.owner && s.LeaseUntil.Sub(c.shipper.options.Now()) > renewal {
		return s, nil
	}
	err = store.Observe(ctx, func(tx Tx) error {
		if s, err = c.held(ctx, tx); err != nil {
			return err
		}
		return tx.MoveSink(ctx, s)
	})
	return s, err
}

// held is the sink as it is now, with its lease taken or renewed.
func (c *courier) held(ctx context.Context, tx Tx) (sink.Sink, error) {
	s, err := tx.Sink(ctx, c.id)
	if err != nil {
		return s, err
	}
	now := c.shipper.options.Now()
	if s.Paused || s.LeaseOwner != c.owner && now.Before(s.LeaseUntil) {
		return s, errNotOurs
	}
	s.LeaseOwner, s.LeaseUntil = c.owner, now.Add(leaseTime).UTC()
	return s, nil
}

// release gives the lease up, so that another replica need not wait for its end.
func (c *courier) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := c.shipper.service.store.Observe(ctx, func(tx Tx) error {
		s, err := tx.Sink(ctx, c.id)
		if err != nil || s.LeaseOwner != c.owner {
			return err
		}
		s.LeaseOwner, s.LeaseUntil = "", time.Time{}
		return tx.MoveSink(ctx, s)
	}); err != nil && fault.KindOf(err) != fault.NotFound {
		c.shipper.options.Logger.Warn("the lease on a sink of the audit log is not given up; another replica waits for its end", "sink", c.name, "error", err)
	}
}

// pack puts together what is sent next.
func (c *courier) pack(ctx context.Context, s sink.Sink) (p parcel, err error) {
	p.from = max(s.Cursor, c.reached)
	if c.reached < s.Cursor || s.Revision != c.revision {
		p.from = s.Cursor // a replay goes back
	}
	entries, err := c.shipper.service.store.View().EntriesOf(ctx, s.Organisation, p.from, maxEntries)
	if err != nil {
		return p, err
	}
	size := 0
	p.upTo = p.from
	for _, e := range entries {
		parts := encode(e, s.Format, limitOf(s))
		bytes := 0
		for _, part := range parts {
			bytes += len(part.Body)
		}
		if n := len(p.events); n > 0 && (size+bytes > batchOf(s) || n+len(parts) > maxEvents) || c.most > 0 && len(p.entries) == c.most {
			break
		}
		p.events, p.entries, size, p.upTo = append(p.events, parts...), append(p.entries, e), size+bytes, e.Position
	}
	if p.more = len(p.entries) < len(entries) || len(entries) == maxEntries; p.more {
		return p, nil
	}
	p.upTo = max(p.upTo, c.head) // what lies between is not this sink's
	options := c.shipper.service.options
	if options.Log != nil && c.most == 0 && c.shipper.options.Now().Sub(c.told) >= witnessed {
		if l, err := options.Log(ctx); err == nil && l.Checkpoint != "" && l.Checkpoint != s.CheckpointLog {
			p.events, p.checkpoint = append(p.events, witness(l, p.upTo)), l.Checkpoint
		}
	}
	return p, nil
}

// settle writes down what came of a parcel.
func (c *courier) settle(ctx context.Context, s sink.Sink, p parcel, failure error) (more bool, err error) {
	now := c.shipper.options.Now
	var aside *sink.DeadLetter
	if failure != nil {
		failure = smaller(s, failure)
		switch one := errors.Is(failure, errRefused); {
		case one && len(p.entries) > 1:
			c.most = len(p.entries) / 2 // one of them is to blame: it is looked for
			return true, nil
		case one && len(p.entries) == 0: // a checkpoint that it will not have is no evidence lost
			c.told, failure = now(), nil
		case one:
			aside, failure = c.blame(s, p.entries[0], failure)
		}
	}
	delivered := failure == nil && aside == nil
	if failure == nil {
		c.revision, c.reached = s.Revision, p.upTo
		if p.checkpoint != "" {
			c.told = now()
		}
	}
	if delivered && c.most > 0 {
		if c.most *= 2; c.most >= maxEvents {
			c.most = 0
		}
	}
	c.report(s, failure)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if failure == nil && len(p.events) == 0 && (p.upTo == s.Cursor || now().Sub(c.noted) < noteEvery) {
		return p.more, nil
	}
	c.noted = now()
	err = c.shipper.service.store.Observe(ctx, func(tx Tx) error {
		k, err := c.held(ctx, tx)
		if err != nil {
			return err
		}
		if k.Revision != s.Revision {
			return nil // it was changed meanwhile, perhaps to be sent again: its cursor stands
		}
		switch {
		case failure != nil:
			k.Failures, k.LastError, k.FailedAt = k.Failures+1, short(failure), now().UTC()
			if errors.Is(failure, errTooLarge) {
				k.Limit = lessThan(k)
			}
			return tx.MoveSink(ctx, k)
		case aside != nil:
			k.Refused, k.LastError, k.FailedAt = k.Refused+1, short(errors.New(aside.Reason)), now().UTC()
			if err := tx.DeleteDeadLetters(ctx, k.ID, aside.Position-1, aside.Position); err != nil { // of the time before a replay
				return err
			}
			if err := tx.PutDeadLetter(ctx, *aside); err != nil {
				return err
			}
		case len(p.events) > 0:
			k.Delivered, k.Failures, k.DeliveredAt = k.Delivered+int64(len(p.entries)), 0, now().UTC()
			if len(p.entries) > 0 {
				k.Refused = 0
			}
			if c.letters > 0 { // what a replay delivered is dead no longer
				if err := tx.DeleteDeadLetters(ctx, k.ID, p.from, p.upTo); err != nil {
					return err
				}
			}
		}
		k.Cursor = p.upTo
		if p.checkpoint != "" {
			k.CheckpointLog = p.checkpoint
		}
		return tx.MoveSink(ctx, k)
	})
	if err == nil && aside != nil {
		c.shipper.options.Aside(s.Name)
	}
	return p.more || aside != nil, errors.Join(failure, err)
}

// smaller turns the refusal of an event's size into that of the event, where there are no smaller parts.
func smaller(s sink.Sink, failure error) error {
	if errors.Is(failure, errTooLarge) && limitOf(s) == smallest {
		return fmt.Errorf("%w: %s", errRefused, short(failure))
	}
	return failure
}

func (c *courier) send(ctx context.Context, s sink.Sink, batch []Event) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	if c.sender == nil {
		secret, err := c.shipper.service.open(s)
		if err != nil {
			return err
		}
		if c.sender, err = c.shipper.open(s, secret); err != nil {
			return err
		}
	}
	for len(batch) > 0 { // an event in many parts is more than a batch
		n, size := 0, 0
		for n < len(batch) && n < maxEvents && (n == 0 || size+len(batch[n].Body) <= batchOf(s)) {
			size += len(batch[n].Body)
			n++
		}
		if err := c.sender.Send(ctx, batch[:n]); err != nil {
			if said := (*answer)(nil); !errors.As(err, &said) {
				c.close() // the next try is made over a connection of its own
			}
			return err
		}
		batch = batch[n:]
	}
	return nil
}

func (c *courier) report(s sink.Sink, err error) {
	st := Status{Name: s.Name, Lag: max(0, c.head-max(c.reached, s.Cursor)), DeadLetters: c.letters}
	if err != nil {
		st.Err = short(err)
	}
	p := c.shipper
	p.mu.Lock()
	before := p.status[s.ID]
	p.status[s.ID] = st
	p.mu.Unlock()
	switch {
	case st.Err != "" && st.Err != before.Err:
		p.options.Logger.Warn("a sink of the audit log does not take what is sent; trying again", "sink", s.Name, "error", st.Err)
	case st.Err == "" && before.Err != "":
		p.options.Logger.Info("a sink of the audit log takes what is sent again", "sink", s.Name)
	}
}

// short is an error in one line that fits a table.
func short(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}
