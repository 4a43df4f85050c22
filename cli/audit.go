package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) auditCommand() *cobra.Command {
	return noun("audit", "The audit log: who did what, where, when and why", a.auditList(), a.auditTail(), a.auditCheckpoint(), a.auditVerify(), a.auditExport(), a.auditEvidence(), a.auditRetention(), a.auditWitnesses())
}

func auditFilters(c *cobra.Command, q *pb.ListEntriesRequest) {
	c.Flags().StringVar(&q.Action, "action", "", "only acts that needed this `PERMISSION`: agent_tokens.mint")
	c.Flags().StringVar(&q.Target, "target", "", "only acts on this `ID`")
	c.Flags().StringVar(&q.Actor, "actor", "", "only acts by this `ID`, or on behalf of this user or service account")
}

var auditColumns = []column[*pb.AuditEntry]{
	{"TIME", func(e *pb.AuditEntry) string { return stamp(e.At) }},
	{"ACTOR", func(e *pb.AuditEntry) string {
		return first(e.GetActor().GetName(), e.GetActor().GetId(), e.GetActor().GetKind())
	}},
	{"ACTION", (*pb.AuditEntry).GetAction},
	{"TARGET", func(e *pb.AuditEntry) string { return first(e.TargetName, e.Target) }},
	{"OUTCOME", (*pb.AuditEntry).GetOutcome},
	{"FROM", func(e *pb.AuditEntry) string { return e.GetActor().GetAddress() }},
	{"TICKET", (*pb.AuditEntry).GetTicket},
	{"REASON", (*pb.AuditEntry).GetReason},
}

func (a *app) auditList() *cobra.Command {
	q := &pb.ListEntriesRequest{}
	var limit int
	var since, until moment
	c := &cobra.Command{Use: "list", Short: "List entries, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, limit, func(ctx context.Context, p *pb.Page) ([]*pb.AuditEntry, string, error) {
			q.Workspace, q.Page, q.Since, q.Until = s.flaggedWorkspace(a), p, since.proto(), until.proto()
			r, err := call(ctx, s, s.audit.ListEntries, q)
			if err == nil && r.GetNextPageToken() == "" {
				err = a.hintPruned(ctx, s, q)
			}
			return r.GetItems(), r.GetNextPageToken(), err
		}, "no entry matches", auditColumns...)
	})}
	auditFilters(c, q)
	c.Flags().IntVar(&limit, "limit", 100, "show at most this many; 0: all")
	c.Flags().Var(&since, "since", "only since then: a time, or 2h for two hours ago")
	c.Flags().Var(&until, "until", "only until then")
	return c
}

// hintPruned says which bodies are gone, and why, to who came to the end of the list.
func (a *app) hintPruned(ctx context.Context, s *api, q *pb.ListEntriesRequest) error {
	r, err := call(ctx, s, s.audit.ListEntries, &pb.ListEntriesRequest{Action: "audit.prune", Page: &pb.Page{Size: 1}})
	if err != nil || len(r.Items) == 0 || q.Action != "" {
		return err
	}
	last := r.Items[0]
	did := last.GetAfter().GetStructValue().GetFields()
	a.hint("entries up to position %.0f may be gone: bodies are kept for %.0f days, the last were deleted %s; their hashes stay. loopback audit list --action audit.prune",
		did["upToPosition"].GetNumberValue(), did["keepDays"].GetNumberValue(), ago(last.At))
	return nil
}

// flaggedWorkspace is the workspace named on this command's line: the log is not narrowed by the context's.
func (c *api) flaggedWorkspace(a *app) string { return a.flags.workspace }

func (a *app) auditTail() *cobra.Command {
	q := &pb.ListEntriesRequest{}
	c := &cobra.Command{Use: "tail", Short: "Show entries as they are written", Long: "Show entries as they are written, until interrupted or --timeout. With -o json, one object a line.", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		ctx, cancel := s.deadline(ctx, true)
		defer cancel()
		q.Workspace = s.flaggedWorkspace(a)
		newest, err := call(ctx, s, s.audit.ListEntries, &pb.ListEntriesRequest{Workspace: q.Workspace, Page: &pb.Page{Size: 1}})
		if err != nil {
			return err
		}
		q.AfterPosition = 0
		if len(newest.Items) > 0 {
			q.AfterPosition = newest.Items[0].Position
		}
		q.Page = &pb.Page{Size: 1000}
		var away error
		for {
			r, err := call(ctx, s, s.audit.ListEntries, q)
			switch {
			case ctx.Err() != nil && (away == nil || errors.Is(ctx.Err(), context.Canceled)):
				return nil // the end that was asked for
			case ctx.Err() != nil:
				return away
			case err != nil && !passing(err):
				return err
			case err != nil && away == nil:
				a.hint("%s; trying again", oneLine(err.Error()))
			}
			away = err
			items := r.GetItems()
			if q.AfterPosition == 0 {
				slices.Reverse(items) // the log was empty: what is there now came newest first
			}
			for _, e := range items {
				q.AfterPosition = e.Position
				if err := a.auditLine(e); err != nil {
					return err
				}
			}
			pause(ctx, err)
		}
	})}
	auditFilters(c, q)
	return c
}

func (a *app) auditLine(e *pb.AuditEntry) error {
	if a.flags.output != "table" {
		return a.printEvent(e)
	}
	for i, c := range auditColumns {
		sep := "  "
		if i == len(auditColumns)-1 {
			sep = "\n"
		}
		if _, err := fmt.Fprint(a.Out, first(clean(c.value(e)), "-"), sep); err != nil {
			return err
		}
	}
	return nil
}
