package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// locked is what a lock keeps out, in a word.
func locked(l *pb.Lock) string {
	switch l.TargetKind {
	case "hosts":
		return "hosts " + first(l.Hosts, "(all)")
	case "service_account":
		return "service account " + l.Name
	}
	return l.TargetKind + " " + l.Name
}

func (a *app) showLock(l *pb.Lock) error {
	return a.print(l, [][2]string{{"id", l.Id}, {"locked", locked(l)}, {"target", l.TargetId}, {"state", l.State}, {"scope", scope(l.Scope)}, {"reason", l.Reason}, {"ticket", l.Ticket},
		{"until", stamp(l.NotAfter)}, {"created", stamp(l.CreatedAt)}, {"created by", first(l.CreatedByName, l.CreatedBy)}, {"closed", stamp(l.ClosedAt)}, {"closed by", l.ClosedBy}, {"comment", l.Comment}}...)
}

func (a *app) lockCommand() *cobra.Command {
	type T = *pb.Lock
	q := &pb.CreateLockRequest{}
	var span days
	var everywhere bool
	create := &cobra.Command{Use: "create", Short: "Lock somebody, a role or hosts out, at once", Args: args(),
		Long: `Lock out, whatever is allowed: it is refused from now on, and what is under way there (shells, commands) ends.

A user, a group or a service account may do nothing in the lock's place, which is where they belong unless one is named, and have no
use of their credentials where that is all of it. Of a role, whoever holds it may not do what it gives, by other roles neither. On a
host, nobody opens shells, runs commands or moves files. Whoever is kept out reads the reason. All is as before once it is lifted.`,
		Example: "  loopback lock create --user eve --reason 'laptop stolen' --ticket INC-7\n  loopback lock create --host db-7 --for 4h --reason 'forensics: leave it as it is'\n  loopback lock create --hosts 'role=db' --in-workspace prod --reason 'change freeze' --for 12h",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			given := 0
			for _, t := range []string{q.User, q.Group, q.ServiceAccount, q.Role, q.Host, q.HostSelector} {
				if t != "" {
					given++
				}
			}
			if given != 1 {
				return usage("say what to lock, by one of --user, --group, --service-account, --role, --host and --hosts")
			}
			if q.HostSelector != "" && !everywhere && q.Organisation+q.Project+q.Workspace == "" {
				return usage("say where the hosts are, by one of --in-org, --in-project, --in-workspace and --everywhere")
			}
			if a.flags.reason == "" {
				return usage("--reason is missing: say why; whoever is kept out reads it")
			}
			q.Reason, q.Ticket = a.flags.reason, a.flags.ticket
			if span.d > 0 {
				q.NotAfter = timestamppb.New(time.Now().Add(span.d))
			}
			l, err := call(ctx, s, s.locks.CreateLock, q)
			if err != nil {
				return err
			}
			return a.showLock(l)
		})}
	f := create.Flags()
	f.StringVar(&q.User, "user", "", "this user, by `NAME` or id")
	f.StringVar(&q.Group, "group", "", "everybody in this group, by `NAME` or id")
	f.StringVar(&q.ServiceAccount, "service-account", "", "this service account, by `NAME` or id")
	f.StringVar(&q.Role, "role", "", "whoever holds this role, from what it gives, by `NAME` or id")
	f.StringVar(&q.Host, "host", "", "everybody from reaching into this host, by `NAME` or id")
	f.StringVar(&q.HostSelector, "hosts", "", "everybody from reaching into hosts that a `SELECTOR` matches; '*' for all")
	f.StringVar(&q.Organisation, "in-org", "", "in this `ORGANISATION`")
	f.StringVar(&q.Project, "in-project", "", "in this `PROJECT`")
	f.StringVar(&q.Workspace, "in-workspace", "", "in this `WORKSPACE`")
	f.BoolVar(&everywhere, "everywhere", false, "in the whole deployment")
	f.Var(&span, "for", "how long: 4h, 7d; without it the lock stays until it is lifted")

	lq := &pb.ListLocksRequest{}
	all := false
	ls := &cobra.Command{Use: "list", Short: "List the locks that hold, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if !all && len(lq.States) == 0 {
			lq.States = []string{"active"}
		}
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			lq.Page = p
			r, err := call(ctx, s, s.locks.ListLocks, lq)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "nothing is locked that you may see",
			column[T]{"ID", T.GetId}, column[T]{"LOCKED", locked}, column[T]{"STATE", T.GetState}, column[T]{"SCOPE", func(l T) string { return scope(l.Scope) }},
			column[T]{"UNTIL", func(l T) string { return until(l.NotAfter) }}, column[T]{"BY", func(l T) string { return first(l.CreatedByName, l.CreatedBy) }},
			column[T]{"SINCE", func(l T) string { return ago(l.CreatedAt) }}, column[T]{"REASON", T.GetReason})
	})}
	ls.Flags().BoolVar(&all, "all", false, "those that are over as well")
	ls.Flags().StringSliceVar(&lq.States, "state", nil, "only those of this `STATE`: active, lifted, ended (repeatable)")
	ls.Flags().StringVar(&lq.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&lq.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&lq.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")

	return noun("lock", "Locks: people, roles and hosts that are kept out, at once", create, ls,
		&cobra.Command{Use: "show LOCK", Short: "Show a lock", Args: args("LOCK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			l, err := call(ctx, s, s.locks.GetLock, &pb.GetLockRequest{Lock: w[0]})
			if err != nil {
				return err
			}
			return a.showLock(l)
		})},
		&cobra.Command{Use: "lift LOCK", Short: "Let in again what a lock keeps out; never oneself", Args: args("LOCK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			l, err := call(ctx, s, s.locks.LiftLock, &pb.LiftLockRequest{Lock: w[0], Comment: a.flags.reason})
			if err != nil {
				return err
			}
			return a.showLock(l)
		})},
	)
}
