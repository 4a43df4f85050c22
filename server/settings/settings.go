// Package settings sets how agents behave, for a workspace or for one host.
//
// What is set is stored as it was given; what an agent gets is the workspace's with the host's on top, compiled where
// hosts are kept in memory. Setting is a replacement, one transaction with its audit entry. It returns before any agent
// has heard of it: each host reports the section's revision once it has applied it.
package settings

import (
	"cmp"
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads settings.
type Reader interface {
	WorkspaceSettings(ctx context.Context, workspaceID string) (settings.Stored, error)
	HostSettings(ctx context.Context, hostID string) (settings.Stored, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutWorkspaceSettings(ctx context.Context, workspaceID string, s settings.Settings) (settings.Stored, error)
	PutHostSettings(ctx context.Context, hostID string, s settings.Settings) (settings.Stored, error)
	Host(ctx context.Context, id string) (host.Host, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace by id or name, and demands a permission there.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Hosts finds a host by id or name, and demands a permission on it.
type Hosts interface {
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
}

// Service answers what people ask of settings.
type Service struct {
	store   Store
	tenants Tenants
	hosts   Hosts
	now     func() time.Time
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, hosts Hosts, now func() time.Time) *Service {
	return &Service{store, tenants, hosts, now}
}

// Place is a workspace, or a host where one is named.
type Place struct {
	Workspace string
	Host      string
}

// Settings of a place.
type Settings struct {
	Scope     access.Scope
	HostID    string            // empty for a workspace's
	Revision  int64             // of what is set here; 0: nothing is
	Own       settings.Settings // as set here
	Effective settings.Settings // with everything above it, defaults included
}

// Get is the settings of a place.
func (s *Service) Get(ctx context.Context, at Place) (Settings, error) {
	out, _, err := s.locate(ctx, at, settings.Read)
	if err != nil {
		return Settings{}, err
	}
	return s.fill(ctx, s.store.View(), out)
}

// locate finds a place, and demands the permission there. The name is for the audit log.
func (s *Service) locate(ctx context.Context, at Place, p access.Permission) (Settings, string, error) {
	if at.Host != "" {
		h, err := s.hosts.Find(ctx, at.Host, at.Workspace, p)
		return Settings{Scope: h.Scope, HostID: h.ID}, h.Name, err
	}
	if at.Workspace == "" {
		var c fault.Check
		c.Add("workspace", "is empty, and no host is named")
		return Settings{}, "", c.Err("settings_place_missing", "it is not said whose settings")
	}
	w, err := s.tenants.Workspace(ctx, at.Workspace, p)
	return Settings{Scope: w.Scope()}, w.Name, err
}

// fill reads what is set at a place and above it.
func (s *Service) fill(ctx context.Context, r Reader, out Settings) (Settings, error) {
	above, err := r.WorkspaceSettings(ctx, out.Scope.Workspace)
	if err != nil {
		return Settings{}, err
	}
	out.Own, out.Revision, out.Effective = above.Settings, above.Revision, above.Settings
	if out.HostID != "" {
		own, err := r.HostSettings(ctx, out.HostID)
		if err != nil {
			return Settings{}, err
		}
		out.Own, out.Revision, out.Effective = own.Settings, own.Revision, above.Settings.Over(own.Settings)
	}
	out.Effective = out.Effective.Defaults()
	return out, nil
}

// Set replaces the settings of a place. revision is the one that the caller read; 0: whichever it is.
func (s *Service) Set(ctx context.Context, at Place, to settings.Settings, revision int64) (Settings, error) {
	to.Labels = nil // labels are the host's own, set elsewhere
	if err := to.Validate(); err != nil {
		return Settings{}, err
	}
	place, name, err := s.locate(ctx, at, settings.Set)
	if err != nil {
		return Settings{}, err
	}
	var out Settings
	err = s.store.Write(ctx, func(tx Tx) error {
		place := place
		if place.HostID != "" { // it may have moved, or been removed since
			h, err := tx.Host(ctx, place.HostID)
			if err != nil {
				return err
			}
			if err := access.ActorFrom(ctx).RequireHost(settings.Set, h.Scope, h.ID, h.Labels, settings.Read, "host "+at.Host); err != nil {
				return err
			}
			if h.Lifecycle == host.LifecycleRemoved {
				return fault.New(fault.Precondition, "host_removed", "host %s was removed", h.Name)
			}
			place.Scope = h.Scope
		}
		before, err := s.fill(ctx, tx, place)
		if err != nil {
			return err
		}
		if revision != 0 && revision != before.Revision {
			return fault.New(fault.Conflict, "settings_changed", "the settings were changed by somebody else meanwhile").
				WithHint("read them again and repeat")
		}
		if err := s.combined(ctx, tx, place, to); err != nil {
			return err
		}
		if err := put(ctx, tx, place, to); err != nil {
			return err
		}
		if out, err = s.fill(ctx, tx, place); err != nil {
			return err
		}
		target := place.HostID
		if target == "" {
			target = place.Scope.Workspace
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), settings.Set, place.Scope, target, name).
			Change(describe(before.Own), describe(out.Own)))
	})
	return out, err
}

// combined demands that a host's settings are valid together with its workspace's: bounds may be set in two places.
func (s *Service) combined(ctx context.Context, tx Tx, place Settings, to settings.Settings) error {
	if place.HostID == "" {
		return nil
	}
	above, err := tx.WorkspaceSettings(ctx, place.Scope.Workspace)
	if err != nil {
		return err
	}
	least := cmp.Or(to.HeartbeatMin, above.Settings.HeartbeatMin)
	most := cmp.Or(to.HeartbeatMax, above.Settings.HeartbeatMax)
	var c fault.Check
	c.That(least == 0 || most == 0 || least <= most, "heartbeatMin", "is %s, more than heartbeatMax (%s), with what the workspace sets", least, most)
	return c.Err("settings_invalid", "the settings are not valid together with the workspace's")
}

func put(ctx context.Context, tx Tx, place Settings, to settings.Settings) error {
	if place.HostID == "" {
		_, err := tx.PutWorkspaceSettings(ctx, place.Scope.Workspace, to)
		return err
	}
	_, err := tx.PutHostSettings(ctx, place.HostID, to)
	return err
}

// record is what the audit log shows of settings.
type record struct {
	HeartbeatMin string   `json:"heartbeatMin,omitempty"`
	HeartbeatMax string   `json:"heartbeatMax,omitempty"`
	LogLevel     string   `json:"logLevel,omitempty"`
	Modules      []string `json:"modules,omitempty"`
}

func describe(s settings.Settings) record {
	r := record{LogLevel: s.LogLevel, Modules: s.Modules}
	if s.HeartbeatMin != 0 {
		r.HeartbeatMin = s.HeartbeatMin.String()
	}
	if s.HeartbeatMax != 0 {
		r.HeartbeatMax = s.HeartbeatMax.String()
	}
	return r
}
