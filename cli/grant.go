package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

func (a *app) showGrant(g *pb.Grant) error {
	var approved []string
	for _, p := range g.Approvals {
		approved = append(approved, strings.TrimSpace(p.UserName+" "+stamp(p.At)))
	}
	fields := [][2]string{{"id", g.Id}, {"state", g.State}, {"role", g.RoleName}, {"for", g.SubjectName}, {"scope", scope(g.Scope)}, {"hosts", g.Hosts},
		{"duration", duration(g.Duration)}, {"reason", g.Reason}, {"ticket", g.Ticket}, {"approved", fmt.Sprintf("%d of %d", len(approved), g.ApprovalsNeeded)},
		{"by", strings.Join(approved, ", ")}, {"asked", stamp(g.CreatedAt)}}
	if w := g.Webhook; w != nil {
		said := "denied"
		if w.Allowed {
			said = "allowed"
		}
		fields = append(fields, [2]string{"webhook", strings.TrimSuffix(said+": "+w.Message, ": ")})
	}
	if g.State == "pending" {
		fields = append(fields, [2]string{"open until", stamp(g.ExpiresAt)})
	}
	return a.print(g, append(fields, [2]string{"began", stamp(g.BeganAt)}, [2]string{"ends", stamp(g.NotAfter)}, [2]string{"over", stamp(g.EndedAt)},
		[2]string{"ended by", g.EndedBy}, [2]string{"comment", g.Comment}, [2]string{"binding", g.BindingId})...)
}

// placeFlags say where.
type placeFlags struct {
	org, project, workspace string
	everywhere              bool
}

func (p *placeFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&p.org, "in-org", "", "in this `ORGANISATION`")
	c.Flags().StringVar(&p.project, "in-project", "", "in this `PROJECT`")
	c.Flags().StringVar(&p.workspace, "in-workspace", "", "in this `WORKSPACE`")
	c.Flags().BoolVar(&p.everywhere, "everywhere", false, "in the whole deployment")
}

func (p *placeFlags) one() error {
	given := 0
	for _, is := range []bool{p.org != "", p.project != "", p.workspace != "", p.everywhere} {
		if is {
			given++
		}
	}
	if given != 1 {
		return usage("say where, by one of --in-org, --in-project, --in-workspace and --everywhere")
	}
	return nil
}

// decided is what a grant that was asked for comes to, as a command's end.
func decided(g *pb.Grant) error {
	switch g.GetState() {
	case "active", "pending":
		return nil
	case "denied":
		why := ""
		if g.Comment != "" {
			why = ": " + g.Comment
		}
		return fault.New(fault.Denied, "grant_denied", "grant %s was denied%s", g.Id, why)
	default:
		return fault.New(fault.Precondition, "grant_over", "grant %s is %s", g.Id, g.State)
	}
}

// awaitGrant waits until a request is decided.
func (a *app) awaitGrant(ctx context.Context, s *api, g *pb.Grant) (*pb.Grant, error) {
	ctx, cancel := s.deadline(ctx, true)
	defer cancel()
	approvals := -1
	for g.State == "pending" {
		if n := len(g.Approvals); n != approvals {
			approvals = n
			a.hint("grant %s waits for approval: %d of %d", g.Id, n, g.ApprovalsNeeded)
		}
		next, err := call(ctx, s, s.grants.WaitGrant, &pb.WaitGrantRequest{Grant: g.Id, State: g.State, Timeout: durationpb.New(pollWait)})
		switch {
		case err == nil:
			g = next
			continue
		case ctx.Err() == nil && !passing(err):
			return g, err
		case ctx.Err() == nil && pause(ctx, err):
			continue
		}
		kind := fault.Timeout
		if errors.Is(ctx.Err(), context.Canceled) {
			kind = fault.Canceled
		}
		return g, fault.New(kind, "grant_pending", "nobody decided on grant %s yet", g.Id).WithHint("it stays open: loopback grant wait %s", g.Id)
	}
	return g, nil
}

func (a *app) grantRequest() *cobra.Command {
	var where placeFlags
	var length days
	var wait bool
	q := &pb.RequestGrantRequest{}
	c := &cobra.Command{Use: "request", Short: "Ask for a role for a while", Args: args(),
		Long:    "Ask for a role for a while. --reason says what for; --ticket names a ticket where the policy asks for one. What can be asked for, and on which terms, is shown by: loopback grant-policy list",
		Example: "  loopback grant request --role debugger --in-workspace prod --hosts role=db --for 1h --reason 'replication stuck' --ticket OPS-42 --wait",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			if q.Role == "" {
				return usage("--role is missing")
			}
			if err := where.one(); err != nil {
				return err
			}
			q.Organisation, q.Project, q.Workspace, q.Duration = where.org, where.project, where.workspace, length.proto()
			g, err := call(ctx, s, s.grants.RequestGrant, q)
			if err == nil && wait {
				g, err = a.awaitGrant(ctx, s, g)
			}
			if err != nil {
				return err
			}
			return errors.Join(a.showGrant(g), decided(g))
		})}
	f := c.Flags()
	f.StringVar(&q.Role, "role", "", "the `ROLE`")
	f.StringVar(&q.Hosts, "hosts", "", "only on hosts whose labels match this `SELECTOR`")
	f.Var(&length, "for", "for how long (default: as long as the policy allows)")
	f.BoolVar(&wait, "wait", false, "wait until it is decided")
	where.register(c)
	return c
}

func (a *app) grantCommand() *cobra.Command {
	type T = *pb.Grant
	decide := func(verb, short, example string, do func(ctx context.Context, s *api, ref, comment string) (T, error)) *cobra.Command {
		var comment string
		c := &cobra.Command{Use: verb + " GRANT", Short: short, Example: example, Args: args("GRANT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			g, err := do(ctx, s, w[0], first(comment, a.flags.reason))
			if err != nil {
				return err
			}
			return a.showGrant(g)
		})}
		c.Flags().StringVar(&comment, "comment", "", "why; everybody who sees the grant reads it")
		return c
	}
	q := &pb.ListGrantsRequest{}
	var mine bool
	ls := &cobra.Command{Use: "list", Short: "List grants and requests, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if mine {
			me, err := call(ctx, s, s.sessions.WhoAmI, &pb.WhoAmIRequest{})
			if err != nil {
				return err
			}
			q.Subject = me.PrincipalId
		}
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			q.Page = p
			r, err := call(ctx, s, s.grants.ListGrants, q)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no grants that you may see",
			column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState}, column[T]{"ROLE", T.GetRoleName}, column[T]{"FOR", T.GetSubjectName},
			column[T]{"SCOPE", func(g T) string { return scope(g.Scope) }}, column[T]{"HOSTS", T.GetHosts},
			column[T]{"APPROVED", func(g T) string { return fmt.Sprintf("%d/%d", len(g.Approvals), g.ApprovalsNeeded) }},
			column[T]{"ENDS", func(g T) string { return until(g.NotAfter) }}, column[T]{"TICKET", T.GetTicket}, column[T]{"REASON", T.GetReason})
	})}
	ls.Flags().StringSliceVar(&q.States, "state", nil, "only those of this `STATE`: pending, active, denied, cancelled, expired, ended, revoked, returned (repeatable)")
	ls.Flags().StringVar(&q.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&q.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&q.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")
	ls.Flags().StringVar(&q.Subject, "subject", "", "only those of this user or service account, by its `ID`")
	ls.Flags().BoolVar(&mine, "mine", false, "only one's own")
	one := func(verb, short string, do func(ctx context.Context, s *api, ref string) (T, error)) *cobra.Command {
		return &cobra.Command{Use: verb + " GRANT", Short: short, Args: args("GRANT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			g, err := do(ctx, s, w[0])
			if err != nil {
				return err
			}
			return a.showGrant(g)
		})}
	}
	wait := &cobra.Command{Use: "wait GRANT", Short: "Wait until a request is decided", Args: args("GRANT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		g, err := call(ctx, s, s.grants.GetGrant, &pb.GetGrantRequest{Grant: w[0]})
		if err == nil {
			g, err = a.awaitGrant(ctx, s, g)
		}
		if err != nil {
			return err
		}
		return errors.Join(a.showGrant(g), decided(g))
	})}
	return noun("grant", "Grants: a role for a while, asked for and approved", a.grantRequest(),
		decide("approve", "Approve what somebody else asks for", "  loopback grant approve gnt_06h… --comment 'looked at the ticket'", func(ctx context.Context, s *api, ref, comment string) (T, error) {
			return call(ctx, s, s.grants.ApproveGrant, &pb.ApproveGrantRequest{Grant: ref, Comment: comment})
		}),
		decide("deny", "Deny what somebody asks for", "", func(ctx context.Context, s *api, ref, comment string) (T, error) {
			return call(ctx, s, s.grants.DenyGrant, &pb.DenyGrantRequest{Grant: ref, Comment: comment})
		}),
		decide("revoke", "End a grant before its time, everywhere and at once", "", func(ctx context.Context, s *api, ref, comment string) (T, error) {
			return call(ctx, s, s.grants.RevokeGrant, &pb.RevokeGrantRequest{Grant: ref, Comment: comment})
		}),
		one("cancel", "Withdraw a request of one's own, or give a grant back", func(ctx context.Context, s *api, ref string) (T, error) {
			return call(ctx, s, s.grants.CancelGrant, &pb.CancelGrantRequest{Grant: ref})
		}),
		ls,
		one("show", "Show a grant", func(ctx context.Context, s *api, ref string) (T, error) {
			return call(ctx, s, s.grants.GetGrant, &pb.GetGrantRequest{Grant: ref})
		}),
		wait)
}

func (a *app) grantPolicyCommand() *cobra.Command {
	type T = *pb.GrantPolicy
	role := func(p T) string { return first(p.RoleId, "any") }
	fields := func(p T) [][2]string {
		return [][2]string{{"id", p.Id}, {"name", p.Name}, {"description", p.Description}, {"role", role(p)}, {"scope", scope(p.Scope)}, {"approvals", fmt.Sprint(p.Approvals)},
			{"approvers", strings.Join(p.Approvers, ", ")}, {"ticket", p.TicketPattern}, {"at most for", duration(p.MaxDuration)}, {"open for", duration(p.Wait)},
			{"webhook", p.Webhook}, {"created", stamp(p.CreatedAt)}, {"created by", p.CreatedBy}}
	}
	q := &pb.CreateGrantPolicyRequest{}
	var where placeFlags
	var longest, open days
	var caFile, secretFile string
	create := &cobra.Command{Use: "create NAME", Short: "Offer a role to be asked for", Args: args("NAME"),
		Example: "  loopback grant-policy create debug-prod --role debugger --in-workspace prod --approvals 1 --max-for 2h --ticket-pattern 'OPS-[0-9]+'",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := where.one(); err != nil {
				return err
			}
			for name, into := range map[string]*string{caFile: &q.Ca, secretFile: &q.Secret} {
				if name == "" {
					continue
				}
				b, err := os.ReadFile(name)
				if err != nil {
					return usage("the file %s cannot be read: %s", name, err)
				}
				*into = strings.TrimSpace(string(b))
			}
			q.Name, q.Organisation, q.Project, q.Workspace = w[0], where.org, where.project, where.workspace
			q.MaxDuration, q.Wait = longest.proto(), open.proto()
			r, err := call(ctx, s, s.grantPolicies.CreateGrantPolicy, q)
			if err != nil {
				return err
			}
			shown := fields(r.Policy)
			if r.Secret != "" {
				shown = append(shown, [2]string{"webhook secret", r.Secret})
				a.hint("the webhook's secret is shown this once")
			}
			return a.print(r, shown...)
		})}
	f := create.Flags()
	f.StringVar(&q.Role, "role", "", "the `ROLE` that can be asked for (default: any, which needs an approval)")
	f.Int32Var(&q.Approvals, "approvals", 1, "how many distinct people have to approve; 0: who asks gets it")
	f.StringSliceVar(&q.Approvers, "approvers", nil, "`GROUP` that an approver is in (repeatable; default: whoever holds grants.approve)")
	f.StringVar(&q.TicketPattern, "ticket-pattern", "", "ask for a ticket that matches this `PATTERN` as a whole")
	f.Var(&longest, "max-for", "how long at most (default: 8h)")
	f.Var(&open, "open-for", "how long a request stays open (default: 24h)")
	f.StringVar(&q.Webhook, "webhook", "", "`URL` that is asked first; no answer within 10 seconds is a denial")
	f.StringVar(&caFile, "webhook-ca-file", "", "PEM `FILE` of the CA that signed the webhook's certificate")
	f.StringVar(&secretFile, "webhook-secret-file", "", "`FILE` that holds the webhook's secret, whsec_… (default: one is made)")
	f.StringVar(&q.Description, "description", "", "what it is for")
	where.register(create)
	lq := &pb.ListGrantPoliciesRequest{}
	ls := &cobra.Command{Use: "list", Short: "List what can be asked for, and on which terms", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			lq.Page = p
			r, err := call(ctx, s, s.grantPolicies.ListGrantPolicies, lq)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no policies that you may see",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"ROLE", role}, column[T]{"SCOPE", func(p T) string { return scope(p.Scope) }},
			column[T]{"APPROVALS", func(p T) string { return fmt.Sprint(p.Approvals) }}, column[T]{"AT MOST", func(p T) string { return duration(p.MaxDuration) }},
			column[T]{"TICKET", T.GetTicketPattern}, column[T]{"WEBHOOK", T.GetWebhook})
	})}
	ls.Flags().StringVar(&lq.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&lq.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&lq.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")
	return noun("grant-policy", "Policies of grants: which roles can be asked for, and on which terms", create, ls,
		&cobra.Command{Use: "show POLICY", Short: "Show a policy", Args: args("POLICY"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			p, err := call(ctx, s, s.grantPolicies.GetGrantPolicy, &pb.GetGrantPolicyRequest{GrantPolicy: w[0]})
			if err != nil {
				return err
			}
			return a.print(p, fields(p)...)
		})},
		&cobra.Command{Use: "delete POLICY", Short: "Offer a role no longer; what was asked for keeps its terms", Args: args("POLICY"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the grant policy %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.grantPolicies.DeleteGrantPolicy, &pb.DeleteGrantPolicyRequest{GrantPolicy: w[0]})
			return a.deleted(r, err, "grant policy", w[0])
		})},
	)
}
