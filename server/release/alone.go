package release

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// leaseName is what one replica at a time does: ends of uploads, publications and signing again.
const leaseName = "releases"

// leaseTime is how long the others wait for a replica that died meanwhile. What counts does not hang on it: one that was
// frozen past its lease and goes on finds, in the transaction that would switch, that somebody else has.
const leaseTime = 15 * time.Second

var errBusy = fault.New(fault.Unavailable, "release_busy", "another replica publishes, and does not come to an end").
	WithHint("try again in a moment; which one it is: loopback replica list").WithRetryAfter(leaseTime)

// alone waits until nobody else changes the repository, on this replica or another, and keeps everybody from it until
// done is called. The context that it returns ends when that cannot be kept up.
func (s *Service) alone(ctx context.Context) (_ context.Context, done func(), err error) {
	s.writing.Lock()
	if s.owner == "" {
		return ctx, s.writing.Unlock, nil
	}
	if err := s.takeLease(ctx); err != nil {
		s.writing.Unlock()
		return nil, nil, err
	}
	working, cancel := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		tick := time.NewTicker(leaseTime / 3)
		defer tick.Stop()
		held := time.Now()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			switch ok, err := s.renewLease(working); {
			case ok:
				held = time.Now()
			case err == nil, time.Since(held) > leaseTime:
				cancel(errBusy)
				return
			}
		}
	}()
	return working, func() {
		cancel(nil)
		<-renewed
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		if err := s.store.Observe(end, func(tx Tx) error { return tx.DropLease(end, leaseName, s.owner) }); err != nil {
			s.log.Warn("the lease of the releases was not given back; it ends by itself", "error", err)
		}
		s.writing.Unlock()
	}, nil
}

func (s *Service) renewLease(ctx context.Context) (held bool, err error) {
	err = s.store.Observe(ctx, func(tx Tx) error {
		var err error
		held, err = tx.TakeLease(ctx, leaseName, s.owner, s.clock().Add(leaseTime))
		return err
	})
	return held && err == nil, err
}

func (s *Service) takeLease(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		switch held, err := s.renewLease(ctx); {
		case err != nil:
			return err
		case held:
			return nil
		case time.Since(began) > leaseTime+5*time.Second:
			return errBusy
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Refresh takes up what another replica published or signed.
func (s *Service) Refresh(ctx context.Context) error { return s.refresh(ctx) }

func (s *Service) refresh(ctx context.Context) error {
	b, err := s.blobs.Stat(ctx, Current)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if b.Version == s.current.Load().timestampBlob {
		return nil
	}
	return s.Reload(ctx)
}
