package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/settings"
)

// settingsRow is what is set at one place: a workspace or a host.
type settingsRow struct {
	id        string
	updatedAt time.Time
	revision  int64
	settings  settings.Settings
}

// settingsDocument names the fields of settings as they are stored.
type settingsDocument struct {
	HeartbeatMin time.Duration `json:"heartbeatMin,omitempty"`
	HeartbeatMax time.Duration `json:"heartbeatMax,omitempty"`
	LogLevel     string        `json:"logLevel,omitempty"`
	Modules      []string      `json:"modules"` // none and unset are different
	Labels       label.Set     `json:"labels,omitempty"`
}

var settingsTable = newTable("settings", func(r *settingsRow) []column {
	return []column{{"id", &r.id}, {"updated_at", moment{&r.updatedAt}}, {"revision", &r.revision},
		{"settings", document{(*settingsDocument)(&r.settings)}}}
})

// WorkspaceSettings are what is set at the workspace; the zero value where nothing ever was.
func (v *View) WorkspaceSettings(ctx context.Context, workspaceID string) (settings.Stored, error) {
	return v.settings(ctx, workspaceID)
}

// HostSettings are what is set at the host; the zero value where nothing ever was.
func (v *View) HostSettings(ctx context.Context, hostID string) (settings.Stored, error) {
	return v.settings(ctx, hostID)
}

func (v *View) settings(ctx context.Context, id string) (settings.Stored, error) {
	found, err := settingsTable.list(ctx, v.session, "WHERE id = $1", id)
	if err != nil || len(found) == 0 {
		return settings.Stored{}, err
	}
	return settings.Stored{Settings: found[0].settings, Revision: found[0].revision}, nil
}

// PutWorkspaceSettings replaces what is set at the workspace.
func (tx *Tx) PutWorkspaceSettings(ctx context.Context, workspaceID string, s settings.Settings) (settings.Stored, error) {
	w, err := tx.Workspace(ctx, workspaceID)
	if err != nil {
		return settings.Stored{}, err
	}
	return tx.putSettings(ctx, workspaceID, w.Scope(), s)
}

// PutHostSettings replaces what is set at the host. The host's SettingsRevision becomes the new revision.
func (tx *Tx) PutHostSettings(ctx context.Context, hostID string, s settings.Settings) (settings.Stored, error) {
	h, err := tx.Host(ctx, hostID)
	if err != nil {
		return settings.Stored{}, err
	}
	stored, err := tx.putSettings(ctx, hostID, h.Scope, s)
	if err != nil {
		return stored, err
	}
	if err := tx.session.exec(ctx, "UPDATE hosts SET settings_revision = $1 WHERE id = $2", stored.Revision, hostID); err != nil {
		return stored, fmt.Errorf("noting the revision of settings at the host: %w", err)
	}
	return stored, nil
}

func (tx *Tx) putSettings(ctx context.Context, id string, at access.Scope, s settings.Settings) (settings.Stored, error) {
	position := tx.change(feed.Settings, id, at, false)
	err := settingsTable.put(ctx, tx.session, &settingsRow{id, tx.now, position, s})
	return settings.Stored{Settings: s, Revision: position}, err
}
