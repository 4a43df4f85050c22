package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Conn is a connection that is read by asking; *wire.Conn is one.
type Conn interface {
	Send(ctx context.Context, message []byte) error
	Receive(ctx context.Context) ([]byte, error)
	Close() error
}

// Carry attaches the End to a connection and carries the session on it until either is over. It closes the connection. The
// error is why it ended; the session may go on with another connection unless Err says that it is over.
func (e *End) Carry(ctx context.Context, c Conn) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	carrier := &asked{conn: c, ctx: ctx, stop: stop, closed: make(chan struct{})}
	a := e.Attach(carrier)
	sent := make(chan error, 1)
	go func() { sent <- a.Run(ctx) }()
	for {
		message, err := c.Receive(ctx)
		if err == nil {
			err = a.Receive(message)
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = cause
			}
			a.Lost(err)
			break
		}
	}
	why := <-sent
	<-carrier.closed
	return why
}

// asked makes a Carrier of a Conn.
type asked struct {
	conn   Conn
	ctx    context.Context
	stop   context.CancelCauseFunc
	closed chan struct{}
}

func (c *asked) Send(message []byte) error { return c.conn.Send(c.ctx, message) }

func (c *asked) Close(reason error) {
	defer close(c.closed)
	// What was sent last goes before the end: the connection's own Close sees to the order.
	_ = c.conn.Close()
	c.stop(reason)
}

// Redial is how long Keep waits between attempts.
const (
	redialFirst = 20 * time.Millisecond
	redialSoon  = 200 * time.Millisecond // the most in the first minute without a connection
	redialLater = 5 * time.Second        // the most after it
	soon        = time.Minute
)

// Keep carries the session on connections that it has dialled, one after the other, until the session is over, which it
// returns the reason of (nil for ErrDone). It gives up, and ends the session with ErrAbandoned, once there was no
// connection for patience. A dial that fails with Denied, NotFound, Precondition or Invalid says that there is no such
// session any more: it ends with that.
func (e *End) Keep(ctx context.Context, patience time.Duration, dial func(context.Context) (Conn, error)) error {
	since := time.Now()
	wait := time.Duration(0)
	for {
		if !e.rest(ctx, wait) {
			break
		}
		conn, err := dial(ctx)
		if err == nil {
			before := e.Counts()
			_ = e.Carry(ctx, conn)
			if after := e.Counts(); after.Received > before.Received || after.Sent > before.Sent || time.Since(since) > soon {
				wait = 0
			}
			since = time.Now()
		} else {
			switch f := fault.Of(err); {
			case f.Kind == fault.Denied, f.Kind == fault.NotFound, f.Kind == fault.Precondition, f.Kind == fault.Invalid:
				e.fail(err)
			case f.RetryAfter > 0:
				wait = max(wait, min(f.RetryAfter, redialLater))
			}
		}
		if time.Since(since) > patience {
			e.fail(ErrAbandoned.WithCause(err))
		}
		bound := redialSoon
		if time.Since(since) > soon {
			bound = redialLater
		}
		wait = min(max(redialFirst, 2*wait), bound)
	}
	if ctx.Err() != nil {
		e.fail(fault.Of(context.Cause(ctx)))
	}
	if err := e.Err(); !errors.Is(err, ErrDone) {
		return err
	}
	return nil
}

// rest waits, at random up to the bound; false once the session is over or ctx ends.
func (e *End) rest(ctx context.Context, bound time.Duration) bool {
	timer := time.NewTimer(time.Duration(rand.Float64() * float64(bound)))
	defer timer.Stop()
	select {
	case <-e.done:
		return false
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (e *End) fail(reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finish(reason)
}
