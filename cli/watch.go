package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
)

// retry is how long a watch waits before it connects anew.
const retry = time.Second

// watch follows hosts for as long as ctx lasts. A control plane that goes away and comes back is a pause: the watch
// connects anew, and what is seen then is what changed meanwhile. It ends when seen returns false or an error that
// trying again would not mend.
func (a *app) watch(ctx context.Context, s *api, q *pb.WatchHostsRequest, seen func(*pb.WatchHostsResponse) (bool, error)) error {
	told := false
	for {
		stream, err := s.hosts.WatchHosts(ctx, connect.NewRequest(q))
		if err == nil {
			for stream.Receive() {
				told = false
				more, err := seen(stream.Msg())
				if err != nil || !more {
					stream.Close()
					return err
				}
			}
			err = stream.Err()
			stream.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if err = s.explain(err); fault.KindOf(err) != fault.Unavailable {
				return err
			}
			if !told {
				a.hint("%s; trying again", oneLine(err.Error()))
				told = true
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

func (a *app) hostWatch() *cobra.Command {
	q := &pb.WatchHostsRequest{}
	c := &cobra.Command{
		Use: "watch", Short: "Show hosts, then every transition as it happens", Args: args(),
		Long: "Show hosts, then every transition as it happens, until interrupted or --timeout.\nWith -o json, one object a line.",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			ctx, cancel := s.deadline(ctx, true)
			defer cancel()
			q.Workspace = s.Workspace
			last := map[string]string{}
			err := a.watch(ctx, s, q, func(r *pb.WatchHostsResponse) (bool, error) {
				ch := r.GetChanged()
				if ch == nil {
					return true, nil
				}
				h := ch.Host
				now := h.State + "\x00" + h.Reason
				if last[h.Id] == now {
					return true, nil // told before the watch connected anew, or something else about it changed
				}
				first := last[h.Id] == ""
				previous, _, _ := strings.Cut(last[h.Id], "\x00")
				last[h.Id] = now
				if ch.PreviousState == "" && !first {
					ch.PreviousState = previous
				}
				return true, a.transition(ch)
			})
			if ctx.Err() != nil {
				return nil // the end that was asked for
			}
			return err
		}),
	}
	c.Flags().StringVarP(&q.Selector, "selector", "l", "", "only hosts whose labels match")
	c.Flags().BoolVar(&q.ChangesOnly, "changes-only", false, "leave out the hosts as they are at the start")
	return c
}

func (a *app) transition(c *pb.HostChange) error {
	if a.flags.output != "table" {
		b, err := encode(c)
		if err != nil {
			return err
		}
		if a.flags.output == "yaml" {
			if _, err := io.WriteString(a.Out, "---\n"); err != nil {
				return err
			}
			return a.printJSON(b)
		}
		_, err = fmt.Fprintf(a.Out, "%s\n", json.RawMessage(b))
		return err
	}
	state := c.Host.State
	if c.PreviousState != "" && c.PreviousState != state {
		state = c.PreviousState + " → " + state
	}
	line := fmt.Sprintf("%s  %-20s  %s", c.At.AsTime().Local().Format(time.TimeOnly), clean(c.Host.Name), state)
	if c.Host.Reason != "" {
		line += "  (" + clean(c.Host.Reason) + ")"
	}
	_, err := fmt.Fprintln(a.Out, line)
	return err
}

func (a *app) hostWait() *cobra.Command {
	var want, selector string
	var count int
	c := &cobra.Command{
		Use: "wait [HOST…] --for STATE", Short: "Wait until hosts are in a state", ValidArgsFunction: a.completeHosts,
		Long: `Wait until every named host is in the state; or, without names, until every host that the selector matches is
(and, with --count, at least that many match).`,
		Example: "  loopback host wait web-1 web-2 --for managed --timeout 2m\n  loopback host wait -l role=web --count 3 --timeout 5m",
		RunE: a.with(func(ctx context.Context, s *api, names []string) error {
			if !slices.Contains(host.States, host.State(want)) {
				return usage("%q is not a state of a host", want)
			}
			if len(names) == 0 && selector == "" && count == 0 {
				return usage("name hosts, or say which by --selector or --count")
			}
			ctx, cancel := s.deadline(ctx, true)
			defer cancel()
			seen, synced := map[string]*pb.Host{}, false
			missing := func() (out []string) {
				for _, n := range names {
					if !slices.ContainsFunc(mapValues(seen), func(h *pb.Host) bool { return (h.Name == n || h.Id == n) && h.State == want }) {
						out = append(out, n)
					}
				}
				if len(names) == 0 {
					in := 0
					for _, h := range mapValues(seen) {
						if h.State == want {
							in++
						} else if h.State != string(host.Removed) {
							out = append(out, h.Name)
						}
					}
					if in < max(count, 1) {
						out = append(out, fmt.Sprintf("%d more", max(count, 1)-in))
					}
				}
				return out
			}
			err := a.watch(ctx, s, &pb.WatchHostsRequest{Workspace: s.Workspace, Selector: selector}, func(r *pb.WatchHostsResponse) (bool, error) {
				switch {
				case r.GetChanged() != nil:
					h := r.GetChanged().Host
					if old := seen[h.Id]; a.Terminal && (old == nil || old.State != h.State) {
						a.hint("%s: %s %s", clean(h.Name), h.State, clean(h.Reason))
					}
					seen[h.Id] = h
				case r.GetSynced() != nil:
					synced = true
				case r.GetReset_() != nil:
					seen, synced = map[string]*pb.Host{}, false
				}
				return !synced || len(missing()) > 0, nil
			})
			if ctx.Err() != nil && len(missing()) > 0 {
				return fault.New(fault.Timeout, "timeout", "not %s yet: %s", want, strings.Join(missing(), ", ")).
					WithHint("loopback host show HOST says why")
			}
			if err != nil {
				return err
			}
			var items []*pb.Host
			for _, h := range mapValues(seen) {
				if h.State == want && (len(names) == 0 || slices.Contains(names, h.Name) || slices.Contains(names, h.Id)) {
					items = append(items, h)
				}
			}
			slices.SortFunc(items, func(x, y *pb.Host) int { return strings.Compare(x.Name, y.Name) })
			return list(a, ctx, 0, func(context.Context, *pb.Page) ([]*pb.Host, string, error) { return items, "", nil }, "",
				column[*pb.Host]{"NAME", (*pb.Host).GetName}, column[*pb.Host]{"STATE", (*pb.Host).GetState}, column[*pb.Host]{"ID", (*pb.Host).GetId})
		}),
	}
	c.Flags().StringVar(&want, "for", string(host.Managed), "`STATE` to wait for")
	c.Flags().StringVarP(&selector, "selector", "l", "", "hosts whose labels match")
	c.Flags().IntVar(&count, "count", 0, "at least this many")
	return c
}

func mapValues(m map[string]*pb.Host) []*pb.Host {
	out := make([]*pb.Host, 0, len(m))
	for _, h := range m {
		out = append(out, h)
	}
	return out
}
