package fleet

import (
	"context"
	"maps"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
)

// Adopt implements link.Observer. What differs from the workspace's settings becomes the host's own, and so do the labels;
// what is wanted from then on has the same contents as what the host holds, under a revision of ours.
func (o Observer) Adopt(ctx context.Context, hostID string, held section.Section) error {
	if held.Name != settings.SectionName {
		return fault.New(fault.Precondition, "section_unknown", "the section %s cannot be taken over from a host", held.Name)
	}
	wins, err := settings.FromSection(held)
	if err != nil {
		return err
	}
	d := o.directory
	var out host.Host
	err = d.options.Store.Write(ctx, func(tx Tx) error {
		before, err := tx.Host(ctx, hostID)
		if err != nil {
			return err
		}
		out = before
		if !slices.Contains(before.Settling, held.Name) || before.Lifecycle == host.LifecycleRemoved {
			return nil // taken over already, or decided otherwise
		}
		above, err := tx.WorkspaceSettings(ctx, before.Scope.Workspace)
		if err != nil {
			return err
		}
		own := beside(wins, above.Settings)
		out.Settling = slices.DeleteFunc(slices.Clone(before.Settling), func(n string) bool { return n == held.Name })
		out.Labels = label.Set{}
		maps.Copy(out.Labels, wins.Labels)
		for _, key := range before.ForcedLabels {
			out.Labels[key] = before.Labels[key]
		}
		out.Settle(d.options.Now().UTC())
		if out, err = tx.PutHost(ctx, out); err != nil {
			return err
		}
		if _, err := tx.PutHostSettings(ctx, hostID, own); err != nil {
			return err
		}
		e := audit.Of(access.Actor{Kind: access.Host, ID: hostID, Name: before.Name}, settings.Set, before.Scope, hostID, before.Name).
			Change(adopted{before.Labels, nil}, adopted{out.Labels, &own})
		e.Reason, e.Decision = "taken over from the host, revision "+held.Revision.String()+": an operator decided that it wins", "built-in"
		if err := tx.Audit(ctx, e); err != nil {
			return err
		}
		out, err = tx.Host(ctx, hostID) // with the revision of its settings
		return err
	})
	if err != nil {
		return err
	}
	d.Learn(ctx, out)
	return nil
}

// adopted is what the audit log shows of it.
type adopted struct {
	Labels   label.Set          `json:"labels,omitempty"`
	Settings *settings.Settings `json:"settings,omitempty"`
}

// beside are the settings that, over those of the workspace, come to these.
func beside(s, workspace settings.Settings) settings.Settings {
	w := workspace.Defaults()
	own := settings.Settings{}
	if s.HeartbeatMin != w.HeartbeatMin || s.HeartbeatMax != w.HeartbeatMax {
		own.HeartbeatMin, own.HeartbeatMax = s.HeartbeatMin, s.HeartbeatMax
	}
	if s.LogLevel != w.LogLevel {
		own.LogLevel = s.LogLevel
	}
	if !slices.Equal(s.Modules, w.Modules) {
		own.Modules = append([]string{}, s.Modules...)
	}
	return own
}
