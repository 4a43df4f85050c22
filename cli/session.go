package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

func (a *app) showSession(s *pb.ShellSession) error {
	status := ""
	if s.State == "ended" {
		status = strconv.Itoa(int(s.ExitStatus))
	}
	return a.print(s, [2]string{"id", s.Id}, [2]string{"state", s.State}, [2]string{"host", s.HostName}, [2]string{"user", s.User}, [2]string{"by", s.PrincipalName},
		[2]string{"from", s.Address}, [2]string{"reason", s.Reason}, [2]string{"ticket", s.Ticket}, [2]string{"scope", scope(s.Scope)}, [2]string{"rule", s.Rule},
		[2]string{"opened", stamp(s.CreatedAt)}, [2]string{"began", stamp(s.StartedAt)}, [2]string{"ended", stamp(s.EndedAt)}, [2]string{"why", s.EndReason},
		[2]string{"status", status}, [2]string{"length", duration(s.Length)}, [2]string{"recordings", s.Verdict}, [2]string{"root", s.Root}, [2]string{"host's root", s.HostRoot},
		[2]string{"recording is", keptAs(s)}, [2]string{"on hold", onHold(s.Hold)}, [2]string{"deleted", forgotten(s.Deletion)}, [2]string{"host's copy", hostsCopy(s.Deletion)})
}

func (a *app) sessionCommand() *cobra.Command {
	type T = *pb.ShellSession
	q := &pb.ListShellSessionsRequest{}
	var mine bool
	ls := &cobra.Command{Use: "list", Short: "List sessions, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if mine {
			me, err := call(ctx, s, s.sessions.WhoAmI, &pb.WhoAmIRequest{})
			if err != nil {
				return err
			}
			q.Subject = me.PrincipalId
		}
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			q.Page = p
			r, err := call(ctx, s, s.shells.ListShellSessions, q)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no sessions that you may see",
			column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState}, column[T]{"HOST", T.GetHostName}, column[T]{"USER", T.GetUser}, column[T]{"BY", T.GetPrincipalName},
			column[T]{"OPENED", func(t T) string { return stamp(t.CreatedAt) }}, column[T]{"LENGTH", func(t T) string { return duration(t.Length) }},
			column[T]{"RECORDINGS", T.GetVerdict}, column[T]{"TICKET", T.GetTicket}, column[T]{"REASON", T.GetReason})
	})}
	ls.Flags().StringSliceVar(&q.States, "state", nil, "only those of this `STATE`: opening, running, ended (repeatable)")
	ls.Flags().StringVar(&q.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&q.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&q.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")
	ls.Flags().StringVar(&q.Host, "host", "", "only those on this host, by its `ID`")
	ls.Flags().StringVar(&q.Subject, "subject", "", "only those of this user or service account, by its `ID`")
	ls.Flags().BoolVar(&mine, "mine", false, "only one's own")

	show := &cobra.Command{Use: "show SESSION", Short: "Show a session", Args: args("SESSION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		one, err := call(ctx, s, s.shells.GetShellSession, &pb.GetShellSessionRequest{Session: w[0]})
		if err != nil {
			return err
		}
		return a.showSession(one)
	})}
	watch := &cobra.Command{Use: "watch SESSION", Short: "Watch a session as it happens; the session shows that you do", Args: args("SESSION"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			return seenOut(a.terminal().take(ctx, s, w[0], "watch", -1))
		})}
	join := &cobra.Command{Use: "join SESSION", Short: "Type into a session: one's own that was left, or, with its own permission, somebody else's", Args: args("SESSION"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			err := a.terminal().take(ctx, s, w[0], "own", -1)
			if f := fault.Of(err); err != nil && (f.Code == "session_not_yours" || f.Kind == fault.Denied) {
				err = a.terminal().take(ctx, s, w[0], "join", -1)
			}
			return seenOut(err)
		})}
	var comment string
	kill := &cobra.Command{Use: "kill SESSION", Short: "End a session and everything that was started from it", Args: args("SESSION"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			one, err := call(ctx, s, s.shells.KillShellSession, &pb.KillShellSessionRequest{Session: w[0], Comment: first(comment, a.flags.reason)})
			if err != nil {
				return err
			}
			return a.showSession(one)
		})}
	kill.Flags().StringVar(&comment, "comment", "", "why; everybody in the session reads it")
	return noun("session", "Shell sessions: live and past", ls, show, watch, join, kill, a.sessionReplay(), a.sessionExport(), a.sessionHold(), a.sessionRelease(), a.sessionForget(), a.sessionRetention(), a.sessionGuestCommand(), a.sessionReviewCommand(), a.sessionReport())
}

// seenOut is the end of somebody's taking part in what is not theirs: that the session ended is no failure.
func seenOut(err error) error {
	if err != nil && fault.Of(err).Code == "session_ended" && fault.KindOf(err) == fault.Precondition {
		return nil
	}
	return err
}

// cast streams a recording as an asciicast.
func (a *app) cast(ctx context.Context, s *api, q *pb.ReplayShellSessionRequest, to io.Writer) error {
	ctx, cancel := s.deadline(ctx, true)
	defer cancel()
	in, err := s.shells.ReplayShellSession(ctx, connect.NewRequest(q))
	if err != nil {
		return s.explain(err)
	}
	for in.Receive() {
		if _, err := to.Write(in.Msg().Cast); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	if err := in.Err(); err != nil {
		_ = in.Close() // the first error says more
		return s.explain(err)
	}
	return in.Close()
}

func (a *app) sessionExport() *cobra.Command {
	q := &pb.ReplayShellSessionRequest{}
	var into string
	var idle time.Duration
	c := &cobra.Command{Use: "export SESSION", Short: "Write a session's recording as an asciicast v3", Args: args("SESSION"),
		Example: "  loopback session export ses_06h… --file incident.cast",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Session = w[0]
			if idle > 0 {
				q.Idle = durationpb.New(idle)
			}
			if into == "" {
				return a.cast(ctx, s, q, a.Out)
			}
			f, err := os.OpenFile(into, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usage("the file %s cannot be made: %s", into, err)
			}
			err = errors.Join(a.cast(ctx, s, q, f), f.Close())
			if err != nil {
				return errors.Join(err, os.Remove(into)) // half a recording must not be taken for one
			}
			return nil
		})}
	c.Flags().StringVar(&into, "file", "", "new `FILE` to write; standard output where it is not given")
	c.Flags().DurationVar(&idle, "idle", 0, "pauses are at most this `LONG`")
	return c
}

func (a *app) sessionReplay() *cobra.Command {
	q := &pb.ReplayShellSessionRequest{}
	var idle, from time.Duration
	speed := 1.0
	c := &cobra.Command{Use: "replay SESSION", Short: "Play a session's recording in this terminal", Args: args("SESSION"),
		Example: "  loopback session replay ses_06h… --speed 4 --idle 1s",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if speed <= 0 || speed > 1000 {
				return usage("--speed is %g; allowed are more than 0, and up to 1000", speed)
			}
			q.Session, q.Idle = w[0], durationpb.New(idle)
			if from > 0 {
				q.From = durationpb.New(from)
			}
			out, in := io.Pipe()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				err := a.cast(ctx, s, q, in)
				done <- err
				_ = in.CloseWithError(err) // nil is the end
			}()
			err := a.play(ctx, out, speed)
			cancel()
			_ = out.Close()
			if failed := <-done; err == nil && failed != nil && fault.KindOf(failed) != fault.Canceled {
				err = failed
			}
			return err
		})}
	c.Flags().DurationVar(&idle, "idle", 2*time.Second, "pauses are at most this `LONG`; 0: as they were")
	c.Flags().DurationVar(&from, "from", 0, "begin this `LONG` after the session's start")
	c.Flags().Float64Var(&speed, "speed", 1, "how many `TIMES` as fast")
	return c
}

// play plays an asciicast.
func (a *app) play(ctx context.Context, cast io.Reader, speed float64) error {
	lines := bufio.NewReader(cast)
	for number := 0; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fault.Of(err)
		}
		if number == 0 {
			continue
		}
		var event []json.RawMessage
		var after float64
		var kind, text string
		if err := json.Unmarshal(line, &event); err != nil || len(event) != 3 || json.Unmarshal(event[0], &after) != nil ||
			json.Unmarshal(event[1], &kind) != nil || json.Unmarshal(event[2], &text) != nil {
			return fault.New(fault.Unavailable, "cast_malformed", "what the control plane plays cannot be read (line %d)", number+1)
		}
		if wait := time.Duration(after / speed * float64(time.Second)); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return fault.Of(ctx.Err())
			}
		}
		switch kind {
		case "o":
			if _, err := io.WriteString(a.Out, text); err != nil {
				return err
			}
		case "m":
			if a.Interactive {
				fmt.Fprintf(a.Err, "\r\n[%s]\r\n", clean(strings.TrimSpace(text)))
			}
		}
	}
}
