package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
)

// watch follows hosts for as long as ctx lasts. A control plane that goes away and comes back is a pause: the watch
// connects anew, and what is seen then, after a reset, is everything as it is. It ends when seen returns false or an
// error, or with an error that trying again would not mend. Where ctx ends while the control plane is away, the error is
// why.
func (a *app) watch(ctx context.Context, s *api, q *pb.WatchHostsRequest, seen func(*pb.WatchHostsResponse) (bool, error)) error {
	var away error
	for again := false; ; again = true {
		stream, err := s.hosts.WatchHosts(ctx, connect.NewRequest(q))
		if err == nil {
			if again {
				_, err = seen(&pb.WatchHostsResponse{Event: &pb.WatchHostsResponse_Reset_{Reset_: &pb.WatchReset{}}})
			}
			for err == nil && stream.Receive() {
				away = nil
				more, err := seen(stream.Msg())
				if err != nil || !more {
					return errors.Join(err, stream.Close())
				}
			}
			if err == nil {
				err = stream.Err()
			}
			_ = stream.Close() // its error is the one that is known
		}
		if _, bounded := ctx.Deadline(); bounded && connect.CodeOf(err) == connect.CodeDeadlineExceeded {
			<-ctx.Done() // the control plane is told of it, and was a moment earlier
		}
		if ctx.Err() != nil {
			return away
		}
		if err != nil {
			err = s.explain(err)
			if !passing(err) {
				return err
			}
			if away == nil {
				a.hint("%s; trying again", oneLine(err.Error()))
			}
			away = err
		}
		if !pause(ctx, away) {
			return away
		}
	}
}

func (a *app) hostWatch() *cobra.Command {
	q := &pb.WatchHostsRequest{}
	var changesOnly bool
	c := &cobra.Command{
		Use: "watch [HOST…]", Short: "Show hosts, then every transition as it happens", ValidArgsFunction: a.completeHosts,
		Long: `Show hosts, then every transition as it happens, until interrupted or --timeout. Hosts that are named need not be there
yet. With -o json, one object a line.`,
		Example: "  loopback host watch -l env=prod\n  loopback host watch web-1 --timeout 5m",
		RunE: a.with(func(ctx context.Context, s *api, names []string) error {
			ctx, cancel := s.deadline(ctx, true)
			defer cancel()
			q.Workspace = s.Workspace
			last := map[string]*pb.Host{} // as they were told, or would have been
			quiet := changesOnly          // until the hosts as they are at the start have been sent
			err := a.watch(ctx, s, q, func(r *pb.WatchHostsResponse) (bool, error) {
				quiet = quiet && r.GetSynced() == nil
				change := r.GetChanged()
				if change == nil || !named(names, change.Host) {
					return true, nil
				}
				h := change.Host
				old := last[h.Id]
				last[h.Id] = h
				switch {
				case change.Gone:
					delete(last, h.Id)
				case old == nil:
				case old.State == h.State && old.Reason == h.Reason:
					return true, nil // told before the watch connected anew, or something else about it changed
				case change.PreviousState == "":
					change.PreviousState = old.State
				}
				if quiet {
					return true, nil
				}
				return true, a.transition(change)
			})
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil // the end that was asked for
			}
			return err
		}),
	}
	c.Flags().StringVarP(&q.Selector, "selector", "l", "", "only hosts whose labels match this `SELECTOR`")
	c.Flags().StringVar(&q.Query, "query", "", "only hosts that this `QUERY` holds for: 'web and not state=managed'")
	c.Flags().BoolVar(&changesOnly, "changes-only", false, "leave out the hosts as they are at the start")
	return c
}

// named tells whether a host is one of those that the command line names; none named: all are.
func named(names []string, h *pb.Host) bool {
	return len(names) == 0 || slices.Contains(names, h.Name) || slices.Contains(names, h.Id)
}

func (a *app) transition(c *pb.HostChange) error {
	if a.flags.output != "table" {
		return a.printEvent(c)
	}
	state := c.Host.State
	switch {
	case c.Gone:
		state = "gone: moved, relabelled or deleted"
	case c.PreviousState != "" && c.PreviousState != state:
		state = c.PreviousState + " → " + state
	}
	line := fmt.Sprintf("%s  %-20s  %s", c.At.AsTime().Local().Format(time.TimeOnly), c.Host.Name, state)
	if c.Host.Reason != "" && !c.Gone {
		line += "  (" + c.Host.Reason + ")"
	}
	_, err := fmt.Fprintln(a.Out, clean(line))
	return err
}

// waiting is what a wait has seen of the hosts that it waits for.
type waiting struct {
	state string
	names []string // empty: all that are seen
	count int      // at least so many, where no names are given
	seen  map[string]*pb.Host
}

// missing says what is not yet as it should be, in words; nothing where all is.
func (w *waiting) missing() (out []string) {
	there := map[string]*pb.Host{}
	in := 0
	for _, h := range w.seen {
		for _, key := range []string{h.Name, h.Id} {
			if better(h, there[key], w.state) {
				there[key] = h
			}
		}
		switch {
		case h.State == w.state:
			in++
		case len(w.names) == 0 && h.State != string(host.Removed):
			out = append(out, h.Name+" is "+h.State)
		}
	}
	for _, n := range w.names {
		switch h := there[n]; {
		case h == nil:
			out = append(out, n+" is not there")
		case h.State != w.state:
			out = append(out, n+" is "+h.State)
		}
	}
	slices.Sort(out)
	if more := max(w.count, 1) - in; len(w.names) == 0 && more > 0 {
		out = append(out, fmt.Sprintf("%d more must come", more))
	}
	return out
}

// better tells whether a host is meant by a name rather than another one that has it: a host that is there rather than
// one that was removed, and then, of two in different workspaces, the one that is in the state.
func better(h, than *pb.Host, state string) bool {
	gone := string(host.Removed)
	switch {
	case than == nil:
		return true
	case (h.State == gone) != (than.State == gone):
		return than.State == gone
	}
	return h.State == state
}

// arrived are the hosts that are in the state, by name.
func (w *waiting) arrived() (out []*pb.Host) {
	for _, h := range w.seen {
		if h.State == w.state && named(w.names, h) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(x, y *pb.Host) int { return strings.Compare(x.Name+"\x00"+x.Id, y.Name+"\x00"+y.Id) })
	return out
}

// addRemoved adds the hosts that were removed already.
func (w *waiting) addRemoved(ctx context.Context, s *api, selector string) error {
	q := &pb.ListHostsRequest{Workspace: s.Workspace, Selector: selector, States: []string{w.state}, Page: &pb.Page{Size: 1000}}
	for {
		r, err := call(ctx, s, s.hosts.ListHosts, q)
		if err != nil {
			return err
		}
		for _, h := range r.Items {
			if named(w.names, h) {
				w.seen[h.Id] = h
			}
		}
		if q.Page.Token = r.NextPageToken; q.Page.Token == "" {
			return nil
		}
	}
}

func (a *app) hostWait() *cobra.Command {
	w := waiting{}
	var selector string
	type T = *pb.Host
	c := &cobra.Command{
		Use: "wait [HOST…] --for STATE", Short: "Wait until hosts are in a state", ValidArgsFunction: a.completeHosts,
		Long: `Wait until every named host is in the state; or, without names, until every host that the selector matches is
(and, with --count, at least that many match). Hosts that are named need not be there yet.

Ends with exit code 7 where --timeout passes first, and says which hosts are not in the state, and in which they are.`,
		Example: "  loopback host wait web-1 web-2 --for managed --timeout 2m\n  loopback host wait -l role=web --count 3 --timeout 5m",
		RunE: a.with(func(ctx context.Context, s *api, names []string) error {
			w.names = names
			switch {
			case !slices.Contains(host.States, host.State(w.state)):
				return usage("%q is not a state of a host; the states are %s", w.state, strings.Join(states(), ", "))
			case w.count < 0:
				return usage("--count is %d, less than 0", w.count)
			case len(names) == 0 && selector == "" && w.count == 0:
				return usage("name hosts, or say which by --selector or --count")
			case len(names) > 0 && w.count > 0:
				return usage("--count goes with --selector, not with names")
			}
			ctx, cancel := s.deadline(ctx, true)
			defer cancel()
			synced, heard, done := false, false, false
			w.seen = map[string]*pb.Host{}
			err := a.watch(ctx, s, &pb.WatchHostsRequest{Workspace: s.Workspace, Selector: selector}, func(r *pb.WatchHostsResponse) (bool, error) {
				switch change := r.GetChanged(); {
				case change != nil && change.Gone:
					delete(w.seen, change.Host.Id)
				case change != nil && named(names, change.Host):
					h := change.Host
					if old := w.seen[h.Id]; a.Interactive && (old == nil || old.State != h.State) {
						a.hint("%s: %s %s", h.Name, h.State, h.Reason)
					}
					w.seen[h.Id] = h
				case r.GetSynced() != nil:
					synced, heard = true, true
					if w.state == string(host.Removed) { // a watch shows hosts that are there
						if err := w.addRemoved(ctx, s, selector); err != nil {
							return false, err
						}
					}
				case r.GetReset_() != nil:
					w.seen, synced = map[string]*pb.Host{}, false
				default:
					return true, nil
				}
				done = synced && len(w.missing()) == 0
				return !done, nil
			})
			switch {
			case done:
			case errors.Is(ctx.Err(), context.Canceled):
				return fault.Of(context.Canceled)
			case ctx.Err() != nil && !heard:
				return fault.New(fault.Timeout, "timeout", "the control plane did not say in time which hosts there are").
					WithHint("give it longer, with --timeout; see whether it answers: loopback whoami")
			case ctx.Err() != nil:
				return fault.New(fault.Timeout, "timeout", "not %s yet: %s", w.state, some(w.missing())).WithHint("loopback host show HOST says why")
			default:
				return err
			}
			return list(a, ctx, 0, func(context.Context, *pb.Page) ([]T, string, error) { return w.arrived(), "", nil }, "",
				column[T]{"NAME", T.GetName}, column[T]{"STATE", T.GetState}, column[T]{"ID", T.GetId})
		}),
	}
	c.Flags().StringVar(&w.state, "for", string(host.Managed), "`STATE` to wait for")
	c.Flags().StringVarP(&selector, "selector", "l", "", "hosts whose labels match this `SELECTOR`")
	c.Flags().IntVar(&w.count, "count", 0, "at least this many")
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(states(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// some words of many, for one line.
func some(words []string) string {
	const most = 10
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}

// states of a host, for people.
func states() (out []string) {
	for _, s := range host.States {
		out = append(out, string(s))
	}
	return out
}
