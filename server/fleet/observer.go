package fleet

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
)

// Observer turns what hosts report into facts, and facts into states. It writes only where a fact is another than before,
// and everything that came together in one transaction.
type Observer struct{ directory *Directory }

var _ link.Observer = Observer{}

// Observer of the hosts in this directory.
func (d *Directory) Observer() Observer { return Observer{d} }

// precision of times as the databases keep them.
const precision = time.Microsecond

// Observe implements link.Observer.
func (o Observer) Observe(ctx context.Context, batch []link.Observation) error {
	d := o.directory
	now := d.options.Now().UTC()
	wanted := make([]map[string]section.Revision, len(batch))
	for i, seen := range batch {
		wanted[i] = d.Wanted(seen.HostID)
		for _, t := range seen.Met {
			d.options.Logger.InfoContext(ctx, "an agent got through after trouble", "host", seen.HostID,
				"code", t.Code, "message", t.Message, "attempts", t.Attempts, "at", t.At)
		}
	}
	return o.each(ctx, len(batch), func(i int) string { return batch[i].HostID }, func(i int, h *host.Host) bool {
		changed := take(h, batch[i])
		return settle(h, wanted[i], now) || changed
	})
}

// each changes hosts in one transaction and lets the directory know. change tells whether it changed the host, which is
// its own to change. Hosts that are unknown, unmanaged or removed are passed over.
func (o Observer) each(ctx context.Context, n int, id func(int) string, change func(int, *host.Host) bool) error {
	d := o.directory
	var stored []host.Host
	ids := make([]string, n)
	for i := range n {
		ids[i] = id(i)
	}
	err := d.options.Store.Observe(ctx, func(tx Tx) error {
		stored = nil
		hosts, err := tx.HostsOf(ctx, ids)
		if err != nil {
			return err
		}
		known := make(map[string]*host.Host, len(hosts))
		for i := range hosts {
			known[hosts[i].ID] = &hosts[i]
		}
		changed := map[string]bool{}
		for i, id := range ids {
			h := known[id]
			if h != nil && h.Lifecycle != host.LifecycleRemoved && h.Lifecycle != host.LifecycleUnmanaged && change(i, h) {
				changed[id] = true
			}
		}
		for _, h := range hosts {
			if changed[h.ID] {
				stored = append(stored, h)
			}
		}
		return tx.PutHosts(ctx, stored)
	})
	if err != nil {
		return err
	}
	d.Learn(ctx, stored...)
	return nil
}

// take takes an observation into the facts, and tells whether any of them is another than before.
func take(h *host.Host, seen link.Observation) bool {
	changed := false
	if p := seen.Presence; p != nil {
		since := p.Since.UTC().Truncate(precision)
		link := host.Link{Replica: p.Replica, BootID: p.Link.BootID, Connection: p.Link.Connection, At: p.At.UTC().Truncate(precision)}
		elsewhere := p.Replica != "" && h.Link.Replica != "" && h.Link.Replica != p.Replica && !link.Newer(h.Link)
		elsewhere = elsewhere && h.Online // whom the database shows offline is taken up by anybody
		if p.Online && p.Replica != "" && h.Link.Replica != p.Replica && !elsewhere {
			h.Link, changed = link, true
		}
		switch {
		case elsewhere:
			// Word of a link that was over before another replica took the host up.
		case p.Online && !h.Online:
			h.Online, h.OnlineSince, h.OfflineSince = true, since, time.Time{}
			changed = true
		case !p.Online && h.Online && since.Before(h.OnlineSince):
			// a late word of a link that was over before the current one began
		case !p.Online && h.Online:
			h.Online, h.OfflineSince = false, since
			changed = true
		}
	}
	if v := seen.AgentVersion; v != "" && v != h.AgentVersion {
		h.AgentVersion, changed = v, true
	}
	for _, s := range seen.Sections {
		changed = takeSection(h, s) || changed
	}
	if m := seen.Modules; m != nil && !slices.Equal(*m, h.Modules) {
		h.Modules, changed = slices.Clone(*m), true
	}
	if len(seen.Met) > 0 || seen.Ongoing != nil {
		troubles := host.MetTrouble(h.Troubles, seen.Met...)
		if seen.Ongoing != nil {
			troubles = host.OngoingTroubles(troubles, *seen.Ongoing)
		}
		for i := range troubles {
			troubles[i].At = troubles[i].At.UTC().Truncate(precision)
		}
		if !slices.Equal(troubles, h.Troubles) {
			h.Troubles, changed = troubles, true
		}
	}
	if v := seen.Inventory; v != nil && (!bytes.Equal(v.Digest, h.Inventory.Digest) || len(v.Digest) == 0) {
		h.Inventory, h.Ceiling = v.Inventory, v.Ceiling
		h.Inventory.Digest = v.Digest
		changed = true
	}
	return changed
}

func takeSection(h *host.Host, s section.Status) bool {
	s.AppliedAt = s.AppliedAt.UTC().Truncate(precision)
	i := slices.IndexFunc(h.Sections, func(have section.Status) bool { return have.Name == s.Name })
	if i < 0 {
		h.Sections = append(slices.Clip(h.Sections), s)
		return true
	}
	have := h.Sections[i]
	if s.AppliedAt.Equal(have.AppliedAt) {
		s.AppliedAt = have.AppliedAt
	}
	if s == have {
		return false
	}
	h.Sections = slices.Clone(h.Sections)
	h.Sections[i] = s
	return true
}

// settle draws the conclusions from a host's facts: whether it has converged, whether its update is over, and its state.
// It tells whether any of them is another than before.
func settle(h *host.Host, wanted map[string]section.Revision, now time.Time) bool {
	changed := false
	if h.Updating != "" && !now.Before(h.UpdatingUntil) {
		h.Updating, h.UpdatingUntil, changed = "", time.Time{}, true
	}
	if converges(h, wanted) {
		h.Converged, changed = true, true
	}
	return h.Settle(now) || changed
}

// converges tells whether the host has just come to hold all of its first configuration.
func converges(h *host.Host, wanted map[string]section.Revision) bool {
	if h.Converged || h.Lifecycle != host.LifecycleActive || len(wanted) == 0 {
		return false
	}
	for name, revision := range wanted {
		if !slices.ContainsFunc(h.Sections, func(s section.Status) bool {
			return s.Name == name && s.Revision == revision && (s.State == section.Applied || s.State == section.Degraded)
		}) {
			return false
		}
	}
	return true
}
