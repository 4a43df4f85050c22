package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// hostsNamed are the hosts that a command line means: those that it names, or those whose labels match.
func (a *app) hostsNamed(ctx context.Context, s *api, names []string, selector string) ([]string, error) {
	switch {
	case len(names) > 0 && selector != "":
		return nil, usage("name hosts, or say which by --selector, not both")
	case len(names) > 0:
		return names, nil
	case selector == "":
		return nil, usage("HOST is missing; name hosts, or say which by --selector")
	}
	q := &pb.ListHostsRequest{Workspace: s.Workspace, Selector: selector, Page: &pb.Page{Size: 1000}}
	for {
		r, err := call(ctx, s, s.hosts.ListHosts, q)
		if err != nil {
			return nil, err
		}
		for _, h := range r.Items {
			names = append(names, h.Id) // names are not unique over workspaces
			a.hint("%s (%s)", h.Name, h.Id)
		}
		if q.Page.Token = r.NextPageToken; q.Page.Token == "" {
			break
		}
	}
	if len(names) == 0 {
		return nil, fault.New(fault.NotFound, "host_not_found", "no host matches %q", selector).WithHint("loopback host list shows labels")
	}
	return names, nil
}

func selectorFlag(c *cobra.Command, selector *string) {
	c.Flags().StringVarP(selector, "selector", "l", "", "hosts whose labels match this `SELECTOR`, instead of names: env=prod,role in (db,web)")
}

func (a *app) eachHost(ctx context.Context, s *api, names []string, selector string, do func(string) (*pb.Host, error)) error {
	names, err := a.hostsNamed(ctx, s, names, selector)
	if err != nil {
		return err
	}
	return each(ctx, a, names, do, a.showHost)
}

// each does one thing to everything that is named and shows what came of it. One that fails does not keep the others
// from it; the first failure is the run's.
func each[T proto.Message](ctx context.Context, a *app, names []string, do func(string) (T, error), show func(T) error) error {
	var done []T
	var failures []error
	for _, n := range names {
		r, err := do(n)
		if err == nil {
			done = append(done, r)
			continue
		}
		if failures = append(failures, err); ctx.Err() != nil {
			break
		}
	}
	switch {
	case a.flags.output != "table" && len(names) > 1:
		if err := printItems(a, done); err != nil {
			return err
		}
	default:
		for i, r := range done {
			if i > 0 {
				fmt.Fprintln(a.Out)
			}
			if err := show(r); err != nil {
				return err
			}
		}
	}
	if len(failures) == 0 {
		return nil
	}
	for _, err := range failures[1:] {
		a.report(err)
	}
	return failures[0]
}

// hostOperation is an act on hosts that is long work: it is begun for all, then waited for.
func (a *app) hostOperation(verb, short string, do func(ctx context.Context, s *api, name, reason string) (*pb.Operation, error)) *cobra.Command {
	var reason, selector string
	var noWait bool
	c := &cobra.Command{Use: verb + " HOST…", Short: short, ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, names []string) error {
			names, err := a.hostsNamed(ctx, s, names, selector)
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, "%s %s?", verb, some(names)); err != nil {
				return err
			}
			begun, refused := map[string]*pb.Operation{}, map[string]error{}
			for _, n := range names {
				if begun[n], refused[n] = do(ctx, s, n, reason); ctx.Err() != nil {
					break
				}
			}
			var ended []*pb.Operation
			err = each(ctx, a, names, func(n string) (*pb.Operation, error) {
				if begun[n] == nil || noWait {
					return begun[n], cmp.Or(refused[n], ctx.Err())
				}
				o, err := a.follow(ctx, s, begun[n])
				ended = append(ended, o)
				return o, err
			}, a.showOperation)
			for _, o := range ended {
				err = cmp.Or(err, failed(o))
			}
			return err
		})}
	c.Flags().StringVar(&reason, "reason", "", "why; goes to the audit log")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it has ended")
	selectorFlag(c, &selector)
	return c
}
