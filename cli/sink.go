package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) sinkCommand() *cobra.Command {
	type T = *pb.Sink
	show := func(k T) error {
		return a.print(k, [2]string{"id", k.Id}, [2]string{"name", k.Name}, [2]string{"organisation", first(k.OrganisationId, "everything")},
			[2]string{"kind", k.Kind}, [2]string{"target", k.Target}, [2]string{"format", k.Format}, [2]string{"state", k.State},
			[2]string{"position", fmt.Sprint(k.Position)}, [2]string{"lag", fmt.Sprint(k.Lag)}, [2]string{"delivered", fmt.Sprint(k.Delivered)},
			[2]string{"last delivery", stamp(k.DeliveredAt)}, [2]string{"failures in a row", fmt.Sprint(k.Failures)}, [2]string{"last error", k.LastError},
			[2]string{"failed", stamp(k.FailedAt)}, [2]string{"dead letters", fmt.Sprint(k.DeadLetters)}, [2]string{"created", stamp(k.CreatedAt)})
	}
	change := func(use, short string, fill func(q *pb.UpdateSinkRequest) error) *cobra.Command {
		return &cobra.Command{Use: use + " SINK", Short: short, Args: args("SINK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q := &pb.UpdateSinkRequest{Sink: w[0]}
			if err := fill(q); err != nil {
				return err
			}
			k, err := call(ctx, s, s.sinks.UpdateSink, q)
			if err != nil {
				return err
			}
			return show(k)
		})}
	}
	pause := func(paused bool) func(*pb.UpdateSinkRequest) error {
		return func(q *pb.UpdateSinkRequest) error { q.Paused = &paused; return nil }
	}
	var since moment
	replay := change("replay", "Send everything from a time on once more, under the ids that it had", func(q *pb.UpdateSinkRequest) error {
		if q.ReplaySince = since.proto(); q.ReplaySince == nil {
			return usage("--since is missing: a time, or 2h for two hours ago")
		}
		return nil
	})
	replay.Flags().Var(&since, "since", "from then on: a time, or 2h for two hours ago")
	return noun("sink", "Sinks: where the audit log is sent to",
		a.sinkCreate(),
		&cobra.Command{Use: "list", Short: "List sinks with how far each is", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.sinks.ListSinks, &pb.ListSinksRequest{Page: p})
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there are no sinks that you may see",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"KIND", T.GetKind}, column[T]{"TARGET", T.GetTarget},
				column[T]{"FORMAT", T.GetFormat}, column[T]{"STATE", T.GetState}, column[T]{"LAG", func(k T) string { return fmt.Sprint(k.Lag) }},
				column[T]{"DEAD LETTERS", func(k T) string { return fmt.Sprint(k.DeadLetters) }},
				column[T]{"LAST DELIVERY", func(k T) string { return ago(k.DeliveredAt) }},
				column[T]{"ERROR", func(k T) string {
					if k.Failures == 0 {
						return ""
					}
					return k.LastError
				}})
		})},
		&cobra.Command{Use: "show SINK", Short: "Show a sink", Args: args("SINK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			k, err := call(ctx, s, s.sinks.GetSink, &pb.GetSinkRequest{Sink: w[0]})
			if err != nil {
				return err
			}
			return show(k)
		})},
		change("pause", "Stop sending; what happens meanwhile is sent when it is resumed", pause(true)),
		change("resume", "Go on where it was paused", pause(false)),
		replay,
		a.sinkDeadLetters(), a.sinkResend(), a.sinkDismiss(),
		&cobra.Command{Use: "delete SINK", Short: "Remove a sink for good", Args: args("SINK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "Remove sink %s? What it was not sent yet, it will not get.", w[0]); err != nil {
				return err
			}
			_, err := call(ctx, s, s.sinks.DeleteSink, &pb.DeleteSinkRequest{Sink: w[0]})
			return err
		})},
	)
}

func (a *app) sinkDeadLetters() *cobra.Command {
	type T = *pb.DeadLetter
	var limit int
	c := &cobra.Command{Use: "dead-letters SINK", Short: "List entries that the receiver refuses, and why", Args: args("SINK"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		return list(a, ctx, limit, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.sinks.GetDeadLetters, &pb.GetDeadLettersRequest{Sink: w[0], Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "the sink has no dead letters",
			column[T]{"ID", T.GetId}, column[T]{"ENTRY", T.GetEntry}, column[T]{"ACTION", T.GetAction}, column[T]{"TRIES", func(l T) string { return fmt.Sprint(l.Tries) }},
			column[T]{"REFUSED", func(l T) string { return ago(l.RefusedAt) }},
			column[T]{"STATE", func(l T) string {
				if l.Resend {
					return "waits to be sent again"
				}
				return "set aside"
			}},
			column[T]{"REASON", T.GetReason})
	})}
	c.Flags().IntVar(&limit, "limit", 100, "show at most this many; 0: all")
	return c
}

func (a *app) sinkResend() *cobra.Command {
	return &cobra.Command{Use: "resend SINK [DEAD-LETTER…]", Short: "Try dead letters once more; without names, all of the sink's", Args: cobra.MinimumNArgs(1), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		r, err := call(ctx, s, s.sinks.ResendDeadLetters, &pb.ResendDeadLettersRequest{Sink: w[0], DeadLetters: w[1:]})
		if err != nil {
			return err
		}
		a.hint("%d to be sent again; loopback sink dead-letters %s shows those that the receiver still refuses", r.Count, w[0])
		return nil
	})}
}

func (a *app) sinkDismiss() *cobra.Command {
	return &cobra.Command{Use: "dismiss SINK [DEAD-LETTER…]", Short: "Give dead letters up; without names, all of the sink's", Args: cobra.MinimumNArgs(1), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		if err := a.confirm(ctx, "Give dead letters of sink %s up? Its receiver will not get these entries.", w[0]); err != nil {
			return err
		}
		r, err := call(ctx, s, s.sinks.DismissDeadLetters, &pb.DismissDeadLettersRequest{Sink: w[0], DeadLetters: w[1:]})
		if err != nil {
			return err
		}
		a.hint("%d given up", r.Count)
		return nil
	})}
}

func (a *app) sinkCreate() *cobra.Command {
	q := &pb.CreateSinkRequest{}
	var since moment
	var ca, secret string
	targets := map[string]*string{}
	c := &cobra.Command{
		Use: "create NAME", Short: "Send the audit log somewhere from now on", Args: args("NAME"),
		Example: `  loopback sink create siem --webhook https://siem.example/in --format ocsf
  loopback sink create logs --org acme --syslog logs.example:6514 --receiver-ca ca.pem --since 24h
  loopback sink create otel --otlp https://collector.example:4318 --secret-file token
  loopback sink create archive --file audit.jsonl`,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Name, q.Since = w[0], since.proto()
			for kind, target := range targets {
				if *target == "" {
					continue
				}
				if q.Kind != "" {
					return usage("--%s and --%s name two receivers; a sink has one", q.Kind, kind)
				}
				q.Kind, q.Target = kind, *target
			}
			if q.Kind == "" {
				return usage("no receiver is named: give --webhook, --syslog, --otlp or --file")
			}
			for name, into := range map[string]*string{ca: &q.Ca, secret: &q.Secret} {
				if name == "" {
					continue
				}
				b, err := os.ReadFile(name)
				if err != nil {
					return usage("the file cannot be read: %s", err)
				}
				*into = strings.TrimSpace(string(b))
			}
			r, err := call(ctx, s, s.sinks.CreateSink, q)
			if err != nil {
				return err
			}
			if a.flags.output != "table" {
				return a.print(r)
			}
			fmt.Fprintln(a.Out, r.Sink.Id)
			if r.Secret != "" && secret == "" {
				a.hint("signing secret, shown this once: %s", r.Secret)
			}
			return nil
		}),
	}
	f := c.Flags()
	for _, t := range []struct{ kind, about string }{
		{"webhook", "`URL` that batches are posted to, signed (Standard Webhooks)"},
		{"syslog", "`HOST:PORT` of a syslog server with TLS (RFC 5424, RFC 5425)"},
		{"otlp", "`URL` of an OpenTelemetry collector (OTLP over HTTP)"},
		{"file", "`NAME` of a file below the control plane's data folder"},
	} {
		targets[t.kind] = f.String(t.kind, "", t.about)
	}
	f.StringVar(&q.Organisation, "org", "", "only what happens in this `ORGANISATION` (default: everything)")
	f.StringVar(&q.Format, "format", "", "`FORMAT` of events: json, ocsf or ecs (default: json)")
	f.StringVar(&ca, "receiver-ca", "", "PEM `FILE` of who signed the receiver's certificate (default: the system's)")
	f.StringVar(&secret, "secret-file", "", "`FILE` with the webhook's signing secret or the collector's bearer token")
	f.Var(&since, "since", "entries from then on: a time, or 24h for a day ago (default: from now on)")
	return c
}
