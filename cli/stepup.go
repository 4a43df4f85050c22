package cli

import (
	"context"
	"sync"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// stepUpRequired is the code of the refusal of who has to show a passkey first (package access).
const stepUpRequired = "step_up_required"

// stepUp has a person show their passkey in a browser. Calls that are refused at once wait for the same one.
type stepUp struct {
	mu   sync.Mutex
	at   time.Time // when the last one was shown
	hint func(format string, args ...any)
}

// steppingUp does something, and where a passkey has to be shown for it has somebody do so and does it once more. Whoever opens
// a stream wraps the opening in it; call does so by itself.
func steppingUp[T any](ctx context.Context, s *api, do func() (T, error)) (T, error) {
	began := time.Now()
	out, err := do()
	if s.stepUp == nil || err == nil || fault.Of(err).Code != stepUpRequired {
		return out, err
	}
	if shown := s.stepUp.show(ctx, s, began); shown != nil {
		return out, shown
	}
	return do()
}

// show waits until a passkey was shown in a browser, unless one was since began.
func (u *stepUp) show(ctx context.Context, s *api, began time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at.After(began) {
		return nil
	}
	d, err := callOnce(ctx, s, s.signIns.BeginDeviceStepUp, &pb.BeginDeviceStepUpRequest{})
	if err != nil {
		return err
	}
	u.hint("this needs your passkey: open %s and check that it shows the code %s", d.UrlComplete, d.Code)
	u.hint("waiting until it is shown; the code works until %s", d.ExpiresAt.AsTime().Local().Format("15:04:05"))
	tick := time.NewTicker(max(d.Interval.AsDuration(), 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r, err := callOnce(ctx, s, s.signIns.PollDeviceSignIn, &pb.PollDeviceSignInRequest{Secret: d.Secret})
		switch {
		case err != nil && passing(err): // the code outlives a moment without the control plane
		case err != nil:
			return err
		case !r.Pending:
			u.at = time.Now()
			u.hint("shown; going on")
			return nil
		}
	}
}
