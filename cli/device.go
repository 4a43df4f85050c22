package cli

import (
	"context"
	"os"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// byBrowser signs in by having somebody approve it who is signed in to the console, on this machine or on any other.
func (a *app) byBrowser(ctx context.Context, s account) error {
	s.APIKey = ""
	if err := a.use(s); err != nil {
		return err
	}
	agent := "loopback " + a.Version
	if name, err := os.Hostname(); err == nil {
		agent += " on " + name
	}
	d, err := call(ctx, a.api, a.api.signIns.BeginDeviceSignIn, &pb.BeginDeviceSignInRequest{Agent: agent})
	if err != nil {
		return err
	}
	a.hint("open %s and check that it shows the code %s", d.UrlComplete, d.Code)
	a.hint("waiting until it is approved; the code works until %s", d.ExpiresAt.AsTime().Local().Format("15:04:05"))
	tick := time.NewTicker(max(d.Interval.AsDuration(), 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r, err := call(ctx, a.api, a.api.signIns.PollDeviceSignIn, &pb.PollDeviceSignInRequest{Secret: d.Secret})
		switch {
		case err != nil && passing(err): // the code outlives a moment without the control plane
		case err != nil:
			return err
		case r.Secret != "":
			s.APIKey = r.Secret
			return a.remember(ctx, s)
		}
	}
}
