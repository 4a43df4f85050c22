package fleet

import (
	"context"
	"fmt"

	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
)

// readWitnesses takes in what hosts are to remember of the audit log, and has the hub look at those for whom it is another. They are
// few: a handful of each workspace.
func (d *Directory) readWitnesses(ctx context.Context) error {
	rows, err := d.options.Store.View().Witnesses(ctx)
	if err != nil {
		return fmt.Errorf("reading what hosts remember of the audit log: %w", err)
	}
	now := make(map[string]*link.Compiled, len(rows))
	var told []string
	d.mu.RLock()
	before := d.witnesses
	d.mu.RUnlock()
	for _, w := range rows {
		if w.Log != int64(d.Epoch().Number) {
			continue // of the log before a backup was restored: that host may know more of it
		}
		r := section.Revision{Epoch: d.Epoch().Number, Number: uint64(w.Revision)}
		if have := before[w.HostID]; have != nil && have.Revision == r {
			now[w.HostID] = have
			continue
		}
		s, err := w.Section(r)
		if err == nil {
			now[w.HostID], err = link.Compile(s)
		}
		if err != nil {
			return fmt.Errorf("what host %s is to remember of the audit log cannot be sent: %w", w.HostID, err)
		}
		told = append(told, w.HostID)
	}
	d.mu.Lock()
	d.witnesses = now
	listener := d.listener
	d.mu.Unlock()
	if listener != nil && len(told) > 0 {
		listener.Changed(told)
	}
	return nil
}
