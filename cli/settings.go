package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) settingsCommand() *cobra.Command {
	show := func(s *pb.Settings) error {
		own := func(set bool) string {
			if set {
				return "  (set here)"
			}
			return ""
		}
		e, o := s.GetEffective(), s.GetOwn()
		return a.print(s, [2]string{"host", s.HostId}, [2]string{"workspace", s.GetScope().GetWorkspaceId()},
			[2]string{"heartbeat at least", duration(e.GetHeartbeatMin()) + own(o.GetHeartbeatMin() != nil)},
			[2]string{"heartbeat at most", duration(e.GetHeartbeatMax()) + own(o.GetHeartbeatMax() != nil)},
			[2]string{"log level", e.GetLogLevel() + own(o.GetLogLevel() != "")},
			[2]string{"modules", first(strings.Join(e.GetModules().GetNames(), ","), "none") + own(o.GetModules() != nil)})
	}
	var shown, changed string
	get := func(ctx context.Context, s *api, host string) (*pb.Settings, error) {
		return call(ctx, s, s.settings.GetSettings, &pb.GetSettingsRequest{Workspace: s.Workspace, Host: host})
	}
	showCommand := &cobra.Command{Use: "show", Short: "Show how agents of the workspace, or of one host, behave", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		r, err := get(ctx, s, shown)
		if err != nil {
			return err
		}
		return show(r)
	})}
	showCommand.Flags().StringVar(&shown, "host", "", "of this `HOST`")
	var hbMin, hbMax days
	var level string
	var modules, unset []string
	var set *cobra.Command
	set = &cobra.Command{Use: "set", Short: "Change how agents behave", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if !slices.ContainsFunc([]string{"heartbeat-min", "heartbeat-max", "log-level", "module", "unset"}, set.Flags().Changed) {
			return usage("there is nothing to change; say what by a flag")
		}
		r, err := get(ctx, s, changed)
		if err != nil {
			return err
		}
		q := &pb.SetSettingsRequest{Workspace: s.Workspace, Host: changed, Settings: r.Own, Revision: r.Revision}
		if q.Settings == nil {
			q.Settings = &pb.AgentSettings{}
		}
		given := set.Flags().Changed
		if given("heartbeat-min") {
			q.Settings.HeartbeatMin = hbMin.proto()
		}
		if given("heartbeat-max") {
			q.Settings.HeartbeatMax = hbMax.proto()
		}
		if given("log-level") {
			q.Settings.LogLevel = level
		}
		if given("module") {
			q.Settings.Modules = &pb.ModuleList{Names: modules}
		}
		for _, u := range unset {
			switch u {
			case "heartbeat-min":
				q.Settings.HeartbeatMin = nil
			case "heartbeat-max":
				q.Settings.HeartbeatMax = nil
			case "log-level":
				q.Settings.LogLevel = ""
			case "module":
				q.Settings.Modules = nil
			default:
				return usage("%q cannot be unset; heartbeat-min, heartbeat-max, log-level, module can", u)
			}
		}
		if r, err = call(ctx, s, s.settings.SetSettings, q); err != nil {
			return err
		}
		return show(r)
	})}
	f := set.Flags()
	f.StringVar(&changed, "host", "", "of this `HOST` (default: of the workspace)")
	f.Var(&hbMin, "heartbeat-min", "shortest time between heartbeats")
	f.Var(&hbMax, "heartbeat-max", "longest time between heartbeats")
	f.StringVar(&level, "log-level", "", "debug, info, warn or error")
	f.StringSliceVar(&modules, "module", nil, "`MODULE` to run (repeatable; '' for none)")
	f.StringSliceVar(&unset, "unset", nil, "take this `SETTING` from above again (repeatable)")
	return noun("settings", "Settings: how agents behave", showCommand, set)
}
