package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"iter"
	"net/http"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/server/shell"
	noun "github.com/loopbackd/loopback/shell"
)

// Shells is loopback.v1.ShellService.
type Shells struct {
	Service      *shell.Service
	Authenticate Authenticator
	Peers        Peers
}

// there is the service of the replica that has the session, where that is why a call cannot be answered here.
func (h Shells) there(ctx context.Context, err error) loopbackv1connect.ShellServiceClient {
	var there *shell.Elsewhere
	if h.Peers == nil || !errors.As(err, &there) {
		return nil
	}
	return h.Peers.Shells(there.Replica, originFrom(ctx).address)
}

// passed is a call as it is handed on: in the name of who calls, who is asked after there once more.
func passed[T any](r *connect.Request[T]) *connect.Request[T] {
	out := connect.NewRequest(r.Msg)
	for _, name := range []string{"Authorization", access.ReasonHeader, access.TicketHeader, RequestID} {
		for _, value := range r.Header().Values(name) {
			out.Header().Add(name, value)
		}
	}
	return out
}

// answered is another replica's answer.
func answered[T any](r *connect.Response[T], err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, relayed(err)
	}
	return connect.NewResponse(r.Msg), nil
}

// relayed is another replica's error as if it were ours; nil for nil.
func relayed(err error) error {
	var ce *connect.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &ce) || !connect.IsWireError(err):
		return fault.New(fault.Unavailable, "replica_unreachable", "the replica that has the session does not answer").WithHint("try again in a moment").WithCause(err)
	}
	out := connect.NewError(ce.Code(), errors.New(ce.Message()))
	for _, d := range ce.Details() {
		out.AddDetail(d)
	}
	return out
}

// again asks for whoever called once more: a session outlives the call that opened it.
func (h Shells) again(ctx context.Context, header http.Header) shell.Again {
	_, credential := presented(header)
	from := originFrom(ctx).address
	return func(ctx context.Context) (access.Actor, error) {
		return h.Authenticate.Authenticate(access.AskedAgain(ctx), credential, from)
	}
}

// OpenShell opens a session.
func (h Shells) OpenShell(ctx context.Context, r *connect.Request[v1.OpenShellRequest]) (*connect.Response[v1.ShellSession], error) {
	m := r.Msg
	s, err := h.Service.Open(ctx, shell.New{
		Host: m.GetHost(), Workspace: m.GetWorkspace(), User: m.GetUser(), Cols: int(m.GetCols()), Rows: int(m.GetRows()), Term: m.GetTerm(),
		Reason: m.GetReason(), Ticket: m.GetTicket(), Again: h.again(ctx, r.Header()),
	})
	return h.one(ctx, s, err)
}

// GetShellSession is one.
func (h Shells) GetShellSession(ctx context.Context, r *connect.Request[v1.GetShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Get(ctx, r.Msg.GetSession())
	return h.one(ctx, s, err)
}

// ListShellSessions is those that the caller may read.
func (h Shells) ListShellSessions(ctx context.Context, r *connect.Request[v1.ListShellSessionsRequest]) (*connect.Response[v1.ListShellSessionsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetOrganisation(), r.Msg.GetProject(), r.Msg.GetWorkspace(), noun.Query{
		Host: r.Msg.GetHost(), Who: r.Msg.GetSubject(), States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Page: page(r.Msg.GetPage()),
	})
	if err != nil {
		return nil, err
	}
	all, err := h.Service.AllRetentions(ctx)
	return answer(&v1.ListShellSessionsResponse{Items: each(items, func(s noun.Session) *v1.ShellSession { return shellSession(s, all) }), NextPageToken: next}, err)
}

// KillShellSession ends one.
func (h Shells) KillShellSession(ctx context.Context, r *connect.Request[v1.KillShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Kill(ctx, r.Msg.GetSession(), r.Msg.GetComment())
	if there := h.there(ctx, err); there != nil {
		return answered(there.KillShellSession(ctx, passed(r)))
	}
	return h.one(ctx, s, err)
}

// WatchShellSession is one that the caller may watch.
func (h Shells) WatchShellSession(ctx context.Context, r *connect.Request[v1.WatchShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Permitted(ctx, r.Msg.GetSession(), noun.Watch)
	return h.one(ctx, s, err)
}

// JoinShellSession is one that the caller may join.
func (h Shells) JoinShellSession(ctx context.Context, r *connect.Request[v1.JoinShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Permitted(ctx, r.Msg.GetSession(), noun.Join)
	return h.one(ctx, s, err)
}

// ReplayShellSession is a recording.
func (h Shells) ReplayShellSession(ctx context.Context, r *connect.Request[v1.ReplayShellSessionRequest], out *connect.ServerStream[v1.ReplayShellSessionResponse]) error {
	var f fields
	idle, from := f.duration("idle", r.Msg.GetIdle()), f.duration("from", r.Msg.GetFrom())
	if err := f.err(); err != nil {
		return err
	}
	err := h.Service.Replay(ctx, r.Msg.GetSession(), func(events iter.Seq2[recording.Event, error]) error {
		return recording.WriteCast(pieces{out}, recording.From(events, from), idle)
	})
	there := h.there(ctx, err)
	if there == nil {
		return err
	}
	in, err := there.ReplayShellSession(ctx, passed(r))
	if err != nil {
		return relayed(err)
	}
	for in.Receive() {
		if err := out.Send(in.Msg()); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	return errors.Join(relayed(in.Err()), in.Close())
}

// pieces sends what is written.
type pieces struct {
	to *connect.ServerStream[v1.ReplayShellSessionResponse]
}

func (p pieces) Write(b []byte) (int, error) {
	return len(b), p.to.Send(&v1.ReplayShellSessionResponse{Cast: b})
}

// one is a session, with until when its recording is kept.
func (h Shells) one(ctx context.Context, s noun.Session, err error) (*connect.Response[v1.ShellSession], error) {
	if err != nil {
		return nil, err
	}
	all, err := h.Service.AllRetentions(ctx)
	return answer(shellSession(s, all), err)
}

func shellSession(s noun.Session, all []noun.Retention) *v1.ShellSession {
	root := func(h recording.Head) string {
		if h.Root == (ledger.Hash{}) {
			return ""
		}
		return hex.EncodeToString(h.Root[:])
	}
	out := &v1.ShellSession{
		Id: s.ID, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt), Revision: s.Revision, Scope: scope(s.Scope),
		HostId: s.HostID, HostName: s.HostName, User: s.User, PrincipalId: s.Principal, PrincipalName: s.Who, Address: s.Address,
		Reason: s.Reason, Ticket: s.Ticket, Rule: s.Rule, State: string(s.State), StartedAt: timestamp(s.StartedAt), EndedAt: timestamp(s.EndedAt),
		EndReason: s.EndReason, ExitStatus: int32(s.ExitStatus), Length: duration(s.Head.Length), Bytes: s.Head.Bytes,
		Root: root(s.Head), HostRoot: root(s.Host), Verdict: string(s.Verdict),
		KeptUntil: timestamp(s.KeptUntil(all)),
	}
	if w := s.Held; !w.At.IsZero() {
		out.Hold = &v1.RecordingHold{At: timestamp(w.At), PrincipalId: w.By, PrincipalName: w.ByName, Reason: w.Reason}
	}
	if w := s.Deletion; !w.At.IsZero() {
		out.Deletion = &v1.RecordingDeletion{At: timestamp(w.At), PrincipalId: w.By, PrincipalName: w.ByName, Reason: w.Reason, HostAt: timestamp(s.HostAt)}
	}
	return out
}
