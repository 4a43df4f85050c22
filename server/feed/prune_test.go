package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type prunes struct {
	before []time.Time
	fail   atomic.Bool
}

func (p *prunes) PruneChanges(_ context.Context, before time.Time) (int64, error) {
	p.before = append(p.before, before)
	if p.fail.Load() {
		return 0, errors.New("the database is away")
	}
	return 1, nil
}

func TestOldChangesAreDroppedEveryHourWhateverHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := &prunes{}
		p.fail.Store(true)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- Prune(ctx, p, time.Now, slog.New(slog.DiscardHandler)) }()
		time.Sleep(90 * time.Minute)
		p.fail.Store(false)
		time.Sleep(time.Hour)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
		if len(p.before) != 2 || !p.before[0].Equal(began.Add(time.Hour-Kept)) || !p.before[1].Equal(began.Add(2*time.Hour-Kept)) {
			t.Errorf("dropped before %v", p.before)
		}
	})
}
