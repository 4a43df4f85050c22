package cli

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
)

// Calls that the control plane asks to make again are made again: up to so often, and only within the call's deadline.
const retries = 5

// retryAfter is how long to wait before a call is made again; false where it must not be. A call that a limit refused was
// not begun, whatever it does; others are repeated where repeating changes nothing.
func retryAfter(err error, spec connect.Spec) (time.Duration, bool) {
	var ce *connect.Error
	if !errors.As(err, &ce) || !connect.IsWireError(err) {
		return 0, false
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		detail, ok := v.(*loopbackv1.ErrorDetail)
		if err != nil || !ok {
			continue
		}
		wait := detail.GetRetryAfter().AsDuration()
		switch detail.GetCode() {
		case "rate_limited", "overloaded", "streams_exhausted":
			return max(wait, 100*time.Millisecond), true
		}
		return wait, wait > 0 && ce.Code() == connect.CodeUnavailable && spec.IdempotencyLevel != connect.IdempotencyUnknown
	}
	return 0, false
}

// politely makes a call until it is taken, at the pace that the control plane asks for.
func politely(ctx context.Context, spec connect.Spec, told func(wait time.Duration, why error), do func() error) error {
	for try := 1; ; try++ {
		err := do()
		wait, again := retryAfter(err, spec)
		if !again || try > retries {
			return err
		}
		wait += rand.N(wait/4 + time.Millisecond) // those who were sent away together do not come back together
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return err // what it said is of more use than that time ran out
		}
		told(wait, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
