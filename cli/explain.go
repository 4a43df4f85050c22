package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// targetFlags say what a question about access is about.
func targetFlags(c *cobra.Command) *pb.AccessTarget {
	at := &pb.AccessTarget{}
	f := c.Flags()
	f.StringVar(&at.Organisation, "in-org", "", "in this `ORGANISATION`")
	f.StringVar(&at.Project, "in-project", "", "in this `PROJECT`")
	f.StringVar(&at.Workspace, "in-workspace", "", "in this `WORKSPACE`")
	f.StringVar(&at.Host, "host", "", "on this `HOST`")
	f.StringVarP(&at.Selector, "selector", "l", "", "on hosts whose labels match this `SELECTOR`")
	return at
}

func (a *app) accessCommand() *cobra.Command {
	return noun("access", "Who may do what, why, and what a change would do", a.explainCommand(), a.whoCanCommand(), a.whatCanCommand(), a.diffCommand())
}

func (a *app) explainCommand() *cobra.Command {
	q := &pb.ExplainAccessRequest{}
	var when moment
	var mfa days
	c := &cobra.Command{Use: "explain PERMISSION", Short: "Say why somebody may do something, or why not", Args: args("PERMISSION"),
		Example: "  loopback access explain hosts.remove --user ada --host web-1",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Permission, q.Time, q.MfaAge = w[0], when.proto(), mfa.proto()
			r, err := call(ctx, s, s.access.ExplainAccess, q)
			if err != nil {
				return err
			}
			if a.flags.output != "table" {
				return a.print(r)
			}
			fmt.Fprintln(a.Out, clean(r.Summary))
			if len(r.Reasons) == 0 {
				return nil
			}
			type T = *pb.AccessReason
			return table(a, r.Reasons, []column[T]{
				{"BINDING", T.GetBindingId}, {"EFFECT", T.GetEffect}, {"ROLE", T.GetRole}, {"SCOPE", func(r T) string { return scope(r.Scope) }},
				{"HOSTS", T.GetHosts}, {"APPLIES", func(r T) string {
					if r.Applies {
						return "yes"
					}
					return "no: " + r.Why
				}}})
		})}
	q.At = targetFlags(c)
	c.Flags().StringVar(&q.User, "user", "", "the `USER`")
	c.Flags().StringVar(&q.ServiceAccount, "service-account", "", "the service `ACCOUNT`")
	when.ahead = true
	c.Flags().Var(&when, "at", "at this time, or after this span (default: now)")
	c.Flags().StringVar(&q.Address, "from-address", "", "if the call came from this `ADDRESS`")
	c.Flags().Var(&mfa, "mfa-age", "if a second factor had been given so long ago")
	c.Flags().StringVar(&q.Ticket, "ticket", "", "if this `TICKET` were named")
	return c
}

// reaches prints how far permissions reach.
func (a *app) reaches(m proto.Message, items []*pb.AccessReach, hosts int64, empty string, subject bool) error {
	if a.flags.output != "table" {
		return a.print(m)
	}
	if len(items) == 0 {
		a.hint("%s", empty)
		return nil
	}
	type T = *pb.AccessReach
	first := column[T]{"PERMISSION", T.GetPermission}
	if subject {
		first = column[T]{"WHO", func(r T) string { return strings.ReplaceAll(r.SubjectKind, "_", " ") + " " + r.Subject }}
	}
	return table(a, items, []column[T]{first,
		{"EVERYTHING", func(r T) string { return yes(r.Everything) }},
		{"HOSTS", func(r T) string { return strconv.FormatInt(r.Hosts, 10) + " of " + strconv.FormatInt(hosts, 10) }},
		{"CONDITIONS", func(r T) string { return yes(r.Conditional) }},
		{"BY", func(r T) string { return some(r.BindingIds) }}})
}

func (a *app) whoCanCommand() *cobra.Command {
	q := &pb.WhoCanRequest{}
	c := &cobra.Command{Use: "who-can PERMISSION", Short: "List who may do something, and on how many hosts", Args: args("PERMISSION"),
		Example: "  loopback access who-can hosts.remove --in-workspace prod -l env=prod",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Permission = w[0]
			r, err := call(ctx, s, s.access.WhoCan, q)
			if err != nil {
				return err
			}
			return a.reaches(r, r.Items, r.Hosts, "nobody may", true)
		})}
	q.At = targetFlags(c)
	return c
}

func (a *app) whatCanCommand() *cobra.Command {
	q := &pb.WhatCanRequest{}
	c := &cobra.Command{Use: "what-can", Short: "List what somebody may do, and on how many hosts", Args: args(),
		Example: "  loopback access what-can --user ada --in-org acme",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			r, err := call(ctx, s, s.access.WhatCan, q)
			if err != nil {
				return err
			}
			return a.reaches(r, r.Items, r.Hosts, "nothing", false)
		})}
	q.At = targetFlags(c)
	c.Flags().StringVar(&q.User, "user", "", "the `USER`")
	c.Flags().StringVar(&q.ServiceAccount, "service-account", "", "the service `ACCOUNT`")
	return c
}

func (a *app) diffCommand() *cobra.Command {
	q := &pb.DiffAccessRequest{At: &pb.AccessTarget{}}
	var add bindingFlags
	var reshape string
	c := &cobra.Command{Use: "diff", Short: "Say who would gain and lose what by a change, without making it", Args: args(),
		Long:    "Say who would gain and lose what, without changing anything: by a binding as binding create would make it, by deleting\nbindings (--remove), or by giving a role other permissions (--reshape ROLE --permission …). What it says is about the place\nthat the binding is for, or the whole deployment.",
		Example: "  loopback access diff --user ada --role admin --in-workspace prod\n  loopback access diff --everywhere --remove bnd_06ey6t7p01bq85nx44fbgmhk18",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			q.At.Organisation, q.At.Project, q.At.Workspace = add.q.Organisation, add.q.Project, add.q.Workspace
			if add.q.Role != "" {
				b, err := add.request()
				if err != nil {
					return err
				}
				q.Add = []*pb.CreateBindingRequest{b}
			}
			q.Role = reshape
			if len(q.Add) == 0 && len(q.RemoveBindings) == 0 && reshape == "" {
				return usage("there is nothing to compare; describe a binding, or use --remove or --reshape")
			}
			r, err := call(ctx, s, s.access.DiffAccess, q)
			if err != nil {
				return err
			}
			if a.flags.output != "table" {
				return a.print(r)
			}
			if len(r.Items) == 0 {
				a.hint("nothing would change")
				return nil
			}
			type T = *pb.AccessDifference
			return table(a, r.Items, []column[T]{
				{"WHO", func(d T) string { return strings.ReplaceAll(d.SubjectKind, "_", " ") + " " + d.Subject }}, {"PERMISSION", T.GetPermission},
				{"EVERYTHING", func(d T) string {
					switch {
					case d.EverythingAfter && !d.EverythingBefore:
						return "gained"
					case d.EverythingBefore && !d.EverythingAfter:
						return "lost"
					}
					return ""
				}},
				{"HOSTS", func(d T) string {
					return fmt.Sprintf("+%d -%d, then %d of %d", d.Gained, d.Lost, d.HostsAfter, r.Hosts)
				}}})
		})}
	add.register(c)
	c.Flags().StringSliceVar(&q.RemoveBindings, "remove", nil, "a `BINDING` that would be deleted (repeatable)")
	c.Flags().StringVar(&reshape, "reshape", "", "a `ROLE` that would get other permissions")
	c.Flags().StringSliceVar(&q.Permissions, "permission", nil, "`PERMISSION` that --reshape would give the role, all of them (repeatable)")
	return c
}
