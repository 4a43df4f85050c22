package fleet

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// look is how often hosts are looked at whose state changes with time alone: the lease of an update that ran out.
const look = 2 * time.Second

// Settle keeps states in line with facts where no report does it: a host approved again that holds its configuration
// already has nothing new to report, and the lease of an update ends by itself. It returns when ctx ends.
func (d *Directory) Settle(ctx context.Context) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.unsettled:
		case <-ticker.C:
		}
		ids := d.toSettle()
		if len(ids) == 0 {
			continue
		}
		if err := d.settleThem(ctx, ids); err != nil && ctx.Err() == nil {
			d.options.Logger.WarnContext(ctx, "states of hosts cannot be settled yet", "hosts", len(ids), "error", fault.Of(err).Message)
		}
	}
}

func (d *Directory) settleThem(ctx context.Context, ids []string) error {
	now := d.options.Now().UTC()
	wanted := make([]map[string]section.Revision, len(ids))
	for i, id := range ids {
		wanted[i] = d.Wanted(id)
	}
	return d.Observer().each(ctx, len(ids), func(i int) string { return ids[i] }, func(i int, h *host.Host) bool {
		return settle(h, wanted[i], now)
	})
}

// settledAtOnce bounds how many hosts are settled in one transaction.
const settledAtOnce = 500

// toSettle are hosts whose stored state is not what follows from their facts now.
func (d *Directory) toSettle() []string {
	now := d.options.Now().UTC()
	var suspects []*host.Host
	d.mu.RLock()
	for _, e := range d.hosts {
		h := e.host
		if h.Updating != "" && !now.Before(h.UpdatingUntil) || !h.Converged && h.Lifecycle == host.LifecycleActive && len(h.Sections) > 0 {
			suspects = append(suspects, h)
		}
	}
	d.mu.RUnlock()
	var ids []string
	for _, h := range suspects {
		trial := *h
		if settle(&trial, d.Wanted(h.ID), now) && len(ids) < settledAtOnce {
			ids = append(ids, h.ID)
		}
	}
	return ids
}
