package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/id"
)

func (a *app) hostCommand() *cobra.Command {
	return noun("host", "Hosts: the servers of the fleet",
		a.hostList(), a.hostShow(), a.hostWatch(), a.hostWait(), a.hostLabel(), a.hostAdd(), a.hostMove(),
		a.hostApprove(), a.hostRelease(), a.hostQuarantine(), a.hostSplit(), a.hostDrop(), a.hostSettle(), a.hostDiagnose(), a.hostRestartModule(), a.hostRemove())
}

func (a *app) hostList() *cobra.Command {
	q := &pb.ListHostsRequest{}
	var limit int
	var wide bool
	type T = *pb.Host
	c := &cobra.Command{
		Use: "list [HOST…]", Short: "List hosts", ValidArgsFunction: a.completeHosts,
		Example: "  loopback host list -l 'env=prod,role in (db,web)' --state offline --sort=-since\n  loopback host list web-1 web-2 --wide",
		RunE: a.with(func(ctx context.Context, s *api, names []string) error {
			if len(names) > 0 && (q.Selector != "" || q.Query != "" || len(q.States) > 0) {
				return usage("name hosts, or say which by --selector, --query and --state, not both")
			}
			columns := []column[T]{
				{"NAME", T.GetName}, {"STATE", T.GetState},
				{"SINCE", func(h T) string { return ago(h.Since) }},
				{"AGENT", T.GetAgentVersion}, {"LABELS", func(h T) string { return pairs(h.Labels) }},
				{"REASON", T.GetReason},
			}
			if wide {
				columns = append(columns, column[T]{"ID", T.GetId},
					column[T]{"OS", func(h T) string { return h.GetInventory().GetOsName() }},
					column[T]{"KERNEL", func(h T) string { return h.GetInventory().GetKernel() }},
					column[T]{"LAST SEEN", func(h T) string { return ago(h.LastSeenAt) }})
			}
			return list(a, ctx, limit, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				if len(names) > 0 {
					return hostsByName(ctx, s, names)
				}
				q.Workspace, q.Page = s.Workspace, p
				r, err := call(ctx, s, s.hosts.ListHosts, q)
				return r.GetItems(), r.GetNextPageToken(), err
			}, "no host matches; enrol one: loopback token mint", columns...)
		}),
	}
	f := c.Flags()
	f.StringVarP(&q.Selector, "selector", "l", "", "only hosts whose labels match this `SELECTOR`: env=prod,role in (db,web)")
	f.StringVar(&q.Query, "query", "", "only hosts that this `QUERY` holds for: 'web and not (state=managed or label.env=prod)'")
	f.StringSliceVar(&q.States, "state", nil, "only hosts in this `STATE` (repeatable; default: all but removed)")
	f.StringVar(&q.OrderBy, "sort", "name", "`FIELD`: name, state, since, created_at, agent_version, last_seen_at; -FIELD reverses")
	f.IntVar(&limit, "limit", 0, "show at most this many (default: all)")
	f.BoolVar(&wide, "wide", false, "more columns")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func hostsByName(ctx context.Context, s *api, names []string) (out []*pb.Host, next string, err error) {
	for _, n := range names {
		h, err := call(ctx, s, s.hosts.GetHost, &pb.GetHostRequest{Host: n, Workspace: s.Workspace})
		if err != nil {
			return nil, "", err
		}
		out = append(out, h)
	}
	return out, "", nil
}

// completionPatience is how long somebody who pressed the tabulator waits at most.
const completionPatience = 3 * time.Second

// completeHosts offers the names of hosts that the control plane knows and the line does not hold yet.
func (a *app) completeHosts(c *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	several := strings.Contains(c.Use, "HOST…")
	s, err := a.dial()
	if err != nil || len(given) > 0 && !several {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionPatience)
	defer cancel()
	q := &pb.ListHostsRequest{Workspace: s.Workspace, Page: &pb.Page{Size: 1000}}
	var names []string
	for {
		r, err := call(ctx, s, s.hosts.ListHosts, q)
		if err != nil {
			return names, cobra.ShellCompDirectiveNoFileComp // what is typed by hand works too
		}
		for _, h := range r.Items {
			// What a shell would be told to write must be a name and nothing else.
			if strings.HasPrefix(h.Name, prefix) && !slices.Contains(given, h.Name) && clean(h.Name) == h.Name {
				names = append(names, h.Name+"\t"+h.State)
			}
		}
		if q.Page.Token = r.NextPageToken; q.Page.Token == "" {
			return names, cobra.ShellCompDirectiveNoFileComp
		}
	}
}

func (a *app) showHost(h *pb.Host) error {
	i, l := h.GetInventory(), h.GetCeiling()
	fields := [][2]string{
		{"id", h.Id}, {"name", h.Name}, {"state", h.State}, {"reason", h.Reason}, {"since", stamp(h.Since)},
		{"last seen", stamp(h.LastSeenAt)}, {"uptime", uptime(h.Uptime)}, {"agent", h.AgentVersion}, {"channel", h.Channel},
		{"labels", pairs(h.Labels)}, {"forced labels", strings.Join(h.ForcedLabels, ",")},
		{"workspace", h.GetScope().GetWorkspaceId()}, {"enrolled", stamp(h.EnrolledAt)}, {"enrolled from", h.EnrolledFrom}, {"token", h.TokenId},
		{"ephemeral", duration(h.EphemeralTtl)}, {"provider", h.Provider}, {"address", h.Address},
	}
	if h.KeyFingerprint != "" {
		fields = append(fields, [2]string{"key", fmt.Sprintf("generation %d, SHA-256 %s", h.KeyGeneration, h.KeyFingerprint)})
	}
	if i.GetHostName() != "" {
		fields = append(fields, [2]string{"system", i.OsName}, [2]string{"kernel", i.Kernel + " " + i.Architecture},
			[2]string{"cpu", fmt.Sprintf("%d × %s", i.Cpus, i.CpuModel)}, [2]string{"memory", bytesize(i.MemoryBytes)},
			[2]string{"virtualisation", i.Virtualisation}, [2]string{"boot id", i.BootId})
		for _, d := range i.Disks {
			fields = append(fields, [2]string{"disk " + d.Mount, fmt.Sprintf("%s %s %s", d.Device, d.FileSystem, bytesize(d.SizeBytes))})
		}
		for _, d := range i.Addresses {
			fields = append(fields, [2]string{"address " + d.Interface, strings.TrimSpace(d.Prefix + " " + d.Mac)})
		}
	}
	if l != nil {
		var may []string
		for _, one := range []struct {
			name    string
			allowed bool
		}{{"exec", l.Exec}, {"shell", l.Shell}, {"files", l.Files}, {"power", l.Power}} {
			if one.allowed {
				may = append(may, one.name)
			}
		}
		if len(l.Modules) > 0 {
			may = append(may, "modules "+strings.Join(l.Modules, ","))
		}
		fields = append(fields, [2]string{"the host allows", first(strings.Join(may, ", "), "configuration only")})
	}
	for _, c := range h.Copies {
		text := strings.TrimSpace(c.HostName + " " + c.Address)
		fields = append(fields, [2]string{"copy " + c.BootId, fmt.Sprintf("%s, seen %s: %s", first(text, "unknown"), stamp(c.SeenAt), c.Verdict)})
	}
	for _, s := range h.Sections {
		text := s.Status + " " + s.Revision
		if s.DesiredRevision != "" && s.DesiredRevision != s.Revision {
			text += " (wanted: " + s.DesiredRevision + ")"
		}
		if s.HostWins {
			text += " (the host wins)"
		} else if s.Frozen {
			text += " frozen"
		}
		fields = append(fields, [2]string{"section " + s.Name, strings.TrimSpace(text + " " + s.Message)})
	}
	for _, m := range h.Modules {
		text := "healthy"
		if !m.Healthy {
			text = "unhealthy: " + m.Message
		}
		fields = append(fields, [2]string{"module " + m.Module, text})
	}
	for _, t := range h.Troubles {
		text := "met " + stamp(t.At)
		if t.Ongoing {
			text = "since " + stamp(t.At)
		}
		if t.Attempts > 1 {
			text += fmt.Sprintf(" (%d attempts)", t.Attempts)
		}
		fields = append(fields, [2]string{"trouble " + t.Code, strings.TrimSpace(text + " " + t.Message)})
	}
	return a.print(h, fields...)
}

func (a *app) hostShow() *cobra.Command {
	return &cobra.Command{Use: "show HOST", Short: "Show a host: state, inventory, configuration", Args: args("HOST"), ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			h, err := call(ctx, s, s.hosts.GetHost, &pb.GetHostRequest{Host: w[0], Workspace: s.Workspace})
			if err != nil {
				return err
			}
			return a.showHost(h)
		})}
}

func (a *app) hostLabel() *cobra.Command {
	return &cobra.Command{Use: "label HOST KEY=VALUE|KEY- …", Short: "Set labels, and remove those written KEY-",
		Example: "  loopback host label web-1 env=prod role=web old-", ValidArgsFunction: a.completeHosts,
		Args: func(_ *cobra.Command, w []string) error {
			if len(w) < 2 {
				return usage("name a host and at least one KEY=VALUE or KEY-")
			}
			return nil
		},
		RunE: a.with(func(ctx context.Context, s *api, w []string) (err error) {
			q := &pb.LabelHostRequest{Host: w[0], Workspace: s.Workspace}
			var set []string
			for _, one := range w[1:] {
				if k, ok := strings.CutSuffix(one, "-"); ok && !strings.Contains(one, "=") {
					if k == "" {
						return usage("%q names no label to remove; write key-", one)
					}
					q.Remove = append(q.Remove, k)
				} else {
					set = append(set, one)
				}
			}
			if q.Set, err = labels(set); err != nil {
				return err
			}
			for _, k := range q.Remove {
				if _, both := q.Set[k]; both {
					return usage("the label %q is set and removed at once", k)
				}
			}
			h, err := call(ctx, s, s.hosts.LabelHost, q)
			if err != nil {
				return err
			}
			return a.showHost(h)
		})}
}

func (a *app) hostAdd() *cobra.Command {
	q := &pb.AddHostRequest{}
	var words []string
	c := &cobra.Command{Use: "add NAME", Short: "Put a machine without an agent in the inventory", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) (err error) {
		if q.Labels, err = labels(words); err != nil {
			return err
		}
		q.Workspace, q.Name = s.Workspace, w[0]
		h, err := call(ctx, s, s.hosts.AddHost, q)
		if err != nil {
			return err
		}
		return a.showHost(h)
	})}
	c.Flags().StringVar(&q.Address, "address", "", "where it is reached")
	c.Flags().StringVar(&q.Provider, "provider", "", "who knows it (default: manual)")
	c.Flags().StringSliceVar(&words, "label", nil, "`KEY=VALUE` (repeatable)")
	return c
}

func (a *app) hostMove() *cobra.Command {
	q := &pb.MoveHostRequest{}
	c := &cobra.Command{Use: "move HOST --to WORKSPACE", Short: "Move a host to another workspace", Args: args("HOST"), ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if q.ToWorkspace == "" {
				return usage("--to is missing")
			}
			q.Host, q.Workspace = w[0], s.Workspace
			h, err := call(ctx, s, s.hosts.MoveHost, q)
			if err != nil {
				return err
			}
			return a.showHost(h)
		})}
	c.Flags().StringVar(&q.ToWorkspace, "to", "", "`WORKSPACE` to move it to")
	c.Flags().StringVar(&q.Reason, "reason", "", "why; goes to the audit log")
	return c
}

func (a *app) hostApprove() *cobra.Command {
	var selector string
	c := &cobra.Command{Use: "approve HOST…", Short: "Let pending hosts in", ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			return a.eachHost(ctx, s, w, selector, func(name string) (*pb.Host, error) {
				return call(ctx, s, s.hosts.ApproveHost, &pb.ApproveHostRequest{Host: name, Workspace: s.Workspace})
			})
		})}
	selectorFlag(c, &selector)
	return c
}

func (a *app) hostRelease() *cobra.Command {
	var reason, selector string
	c := &cobra.Command{Use: "release HOST…", Short: "End a quarantine", ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			return a.eachHost(ctx, s, w, selector, func(name string) (*pb.Host, error) {
				return call(ctx, s, s.hosts.ReleaseHost, &pb.ReleaseHostRequest{Host: name, Workspace: s.Workspace, Reason: reason})
			})
		})}
	c.Flags().StringVar(&reason, "reason", "", "why; goes to the audit log")
	selectorFlag(c, &selector)
	return c
}

func (a *app) hostQuarantine() *cobra.Command {
	return a.hostOperation("quarantine", "Leave a host linked, but give it nothing and let it do nothing", func(ctx context.Context, s *api, name, reason string) (*pb.Operation, error) {
		return call(ctx, s, s.hosts.QuarantineHost, &pb.QuarantineHostRequest{Host: name, Workspace: s.Workspace, Reason: reason})
	})
}

func (a *app) hostRemove() *cobra.Command {
	return a.hostOperation("remove", "Take a host out for good: its link closes, its key is dead", func(ctx context.Context, s *api, name, reason string) (*pb.Operation, error) {
		return call(ctx, s, s.hosts.RemoveHost, &pb.RemoveHostRequest{Host: name, Workspace: s.Workspace, Reason: reason})
	})
}

func (a *app) hostRestartModule() *cobra.Command {
	q := &pb.RestartModuleRequest{}
	var noWait bool
	c := &cobra.Command{
		Use: "restart-module HOST MODULE", Short: "Have a host's agent stop and start one of its modules", Args: args("HOST", "MODULE"),
		Long: `Have a host's agent stop and start one of its modules: what the module applied last is applied anew, from what the host holds, and its
health is looked at. The agent itself, and its other modules, go on. The permission is hosts.restart_module.`,
		Example: "  loopback host restart-module web-1 settings --reason 'the log level did not change'",
		ValidArgsFunction: func(c *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(given) == 1 {
				return a.completeModules(c, given[0], prefix)
			}
			return a.completeHosts(c, given, prefix)
		},
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Host, q.Module, q.Workspace, q.RequestId = w[0], w[1], s.Workspace, id.New("req", time.Now())
			o, err := call(ctx, s, s.hosts.RestartModule, q)
			if err == nil && !noWait {
				o, err = a.follow(ctx, s, o)
			}
			if err != nil {
				return err
			}
			return cmp.Or(a.showOperation(o), failed(o))
		}),
	}
	c.Flags().StringVar(&q.Reason, "reason", "", "why; goes to the audit log")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it has ended")
	return c
}

// completeModules are those of a host's agent.
func (a *app) completeModules(c *cobra.Command, host, prefix string) (names []string, _ cobra.ShellCompDirective) {
	s, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionPatience)
	defer cancel()
	h, _ := call(ctx, s, s.hosts.GetHost, &pb.GetHostRequest{Host: host, Workspace: s.Workspace}) // what is typed by hand works too
	for _, m := range h.GetModules() {
		if strings.HasPrefix(m.Module, prefix) && clean(m.Module) == m.Module {
			names = append(names, m.Module)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
