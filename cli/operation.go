package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
)

func (a *app) operationCommand() *cobra.Command {
	q := &pb.ListOperationsRequest{}
	var limit int
	type T = *pb.Operation
	ls := &cobra.Command{Use: "list", Short: "List operations, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, limit, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			q.Workspace, q.Page = s.Workspace, p
			r, err := call(ctx, s, s.operations.ListOperations, q)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no operations",
			column[T]{"ID", T.GetId}, column[T]{"KIND", T.GetName}, column[T]{"STATE", T.GetState},
			column[T]{"PROGRESS", func(o T) string { return fmt.Sprintf("%.0f%%", o.Progress*100) }},
			column[T]{"TARGET", T.GetTarget}, column[T]{"AGE", func(o T) string { return ago(o.CreatedAt) }},
			column[T]{"ERROR", func(o T) string { return o.GetError().GetMessage() }})
	})}
	ls.Flags().StringVar(&q.Target, "target", "", "only those on this `ID`")
	ls.Flags().StringSliceVar(&q.States, "state", nil, "only those in this `STATE` (repeatable)")
	ls.Flags().IntVar(&limit, "limit", 100, "show at most this many; 0: all")
	return noun("operation", "Operations: long work",
		ls,
		&cobra.Command{Use: "show OPERATION", Short: "Show an operation and its steps", Args: args("OPERATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			o, err := call(ctx, s, s.operations.GetOperation, &pb.GetOperationRequest{Operation: w[0]})
			if err != nil {
				return err
			}
			return a.showOperation(o)
		})},
		&cobra.Command{Use: "wait OPERATION", Short: "Wait until an operation has ended; fails where it did", Args: args("OPERATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			o, err := a.follow(ctx, s, &pb.Operation{Id: w[0]})
			if err != nil {
				return err
			}
			if err := a.showOperation(o); err != nil {
				return err
			}
			return failed(o)
		})},
		&cobra.Command{Use: "cancel OPERATION", Short: "Cancel what has not ended", Args: args("OPERATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			o, err := call(ctx, s, s.operations.CancelOperation, &pb.CancelOperationRequest{Operation: w[0]})
			if err != nil {
				return err
			}
			return a.showOperation(o)
		})},
	)
}

func (a *app) showOperation(o *pb.Operation) error {
	fields := [][2]string{{"id", o.Id}, {"kind", o.Name}, {"state", o.State}, {"progress", fmt.Sprintf("%.0f%%", o.Progress*100)},
		{"target", o.Target}, {"by", o.Actor}, {"asked", stamp(o.CreatedAt)}, {"ended", stamp(o.EndedAt)}, {"error", o.GetError().GetMessage()}}
	for _, s := range o.Steps {
		text := s.State
		if s.Message != "" {
			text += ": " + s.Message
		}
		fields = append(fields, [2]string{"  " + s.Name, text})
	}
	return a.print(o, fields...)
}

// pollWait is how long the server is asked to hold one answer.
const pollWait = 20 * time.Second

// follow waits until an operation has ended and tells its steps as they change. An operation outlives the control plane
// that carries it out, so one that is away is waited for too.
func (a *app) follow(ctx context.Context, s *api, o *pb.Operation) (*pb.Operation, error) {
	ctx, cancel := s.deadline(ctx, true)
	defer cancel()
	told, away := map[string]string{}, false
	for {
		for _, step := range o.GetSteps() {
			if told[step.Name] != step.State+step.Message {
				told[step.Name] = step.State + step.Message
				a.hint("%s", strings.TrimSpace(step.Name+": "+step.State+" "+step.Message))
			}
		}
		if operation.State(o.State).Ended() {
			return o, nil
		}
		next, err := call(ctx, s, s.operations.WaitOperation, &pb.WaitOperationRequest{Operation: o.Id, Timeout: durationpb.New(pollWait)})
		switch {
		case err == nil:
			o, away = next, false
			continue
		case ctx.Err() != nil:
		case !passing(err):
			return nil, err
		default:
			if !away {
				a.hint("%s; trying again", oneLine(err.Error()))
			}
			away = true
			if pause(ctx, err) {
				continue
			}
		}
		kind := fault.Timeout
		if errors.Is(ctx.Err(), context.Canceled) {
			kind = fault.Canceled
		}
		return nil, fault.New(kind, "not_ended", "operation %s has not ended yet", o.Id).WithHint("it goes on: loopback operation wait %s", o.Id)
	}
}

// failed is the error of an operation that did not succeed.
func failed(o *pb.Operation) error {
	if o == nil || o.State == "" || o.State == string(operation.Succeeded) || !operation.State(o.State).Ended() {
		return nil
	}
	message := o.GetError().GetMessage()
	if message == "" {
		message = "operation " + o.Id + " was " + o.State
	}
	return fmt.Errorf("%w", fault.New(fault.Internal, first(o.GetError().GetCode(), "operation_failed"), "%s", message))
}
