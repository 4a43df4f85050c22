package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/settings"
	noun "github.com/loopbackd/loopback/settings"
)

// Settings is loopback.v1.SettingsService.
type Settings struct{ Service *settings.Service }

// GetSettings is those of a workspace or a host.
func (h Settings) GetSettings(ctx context.Context, r *connect.Request[v1.GetSettingsRequest]) (*connect.Response[v1.Settings], error) {
	s, err := h.Service.Get(ctx, settings.Place{Workspace: r.Msg.GetWorkspace(), Host: r.Msg.GetHost()})
	return answer(settingsMessage(s), err)
}

// SetSettings replaces those of a workspace or a host.
func (h Settings) SetSettings(ctx context.Context, r *connect.Request[v1.SetSettingsRequest]) (*connect.Response[v1.Settings], error) {
	var f fields
	m := r.Msg.GetSettings()
	to := noun.Settings{
		HeartbeatMin: f.duration("settings.heartbeatMin", m.GetHeartbeatMin()),
		HeartbeatMax: f.duration("settings.heartbeatMax", m.GetHeartbeatMax()),
		LogLevel:     m.GetLogLevel(),
	}
	if m.GetModules() != nil { // set to none is not the same as unset
		to.Modules = append([]string{}, m.GetModules().GetNames()...)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	s, err := h.Service.Set(ctx, settings.Place{Workspace: r.Msg.GetWorkspace(), Host: r.Msg.GetHost()}, to, r.Msg.GetRevision())
	return answer(settingsMessage(s), err)
}

func settingsMessage(s settings.Settings) *v1.Settings {
	return &v1.Settings{
		Scope: scope(s.Scope), HostId: s.HostID, Revision: s.Revision, Own: agentSettings(s.Own), Effective: agentSettings(s.Effective),
	}
}

func agentSettings(s noun.Settings) *v1.AgentSettings {
	out := &v1.AgentSettings{HeartbeatMin: duration(s.HeartbeatMin), HeartbeatMax: duration(s.HeartbeatMax), LogLevel: s.LogLevel}
	if s.Modules != nil {
		out.Modules = &v1.ModuleList{Names: s.Modules}
	}
	return out
}
