package rpc

import (
	"context"
	"encoding/hex"
	"iter"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/server/shell"
	noun "github.com/loopbackd/loopback/shell"
)

// Shells is loopback.v1.ShellService.
type Shells struct {
	Service      *shell.Service
	Authenticate Authenticator
}

// again asks for whoever called once more: a session outlives the call that opened it.
func (h Shells) again(ctx context.Context, header http.Header) shell.Again {
	_, credential, _ := strings.Cut(header.Get("Authorization"), " ")
	credential, from := strings.TrimSpace(credential), originFrom(ctx).address
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
	return answer(shellSession(s), err)
}

// GetShellSession is one.
func (h Shells) GetShellSession(ctx context.Context, r *connect.Request[v1.GetShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Get(ctx, r.Msg.GetSession())
	return answer(shellSession(s), err)
}

// ListShellSessions is those that the caller may read.
func (h Shells) ListShellSessions(ctx context.Context, r *connect.Request[v1.ListShellSessionsRequest]) (*connect.Response[v1.ListShellSessionsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetOrganisation(), r.Msg.GetProject(), r.Msg.GetWorkspace(), noun.Query{
		Host: r.Msg.GetHost(), Who: r.Msg.GetSubject(), States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListShellSessionsResponse{Items: each(items, shellSession), NextPageToken: next}, err)
}

// KillShellSession ends one.
func (h Shells) KillShellSession(ctx context.Context, r *connect.Request[v1.KillShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Kill(ctx, r.Msg.GetSession(), r.Msg.GetComment())
	return answer(shellSession(s), err)
}

// WatchShellSession is one that the caller may watch.
func (h Shells) WatchShellSession(ctx context.Context, r *connect.Request[v1.WatchShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Permitted(ctx, r.Msg.GetSession(), noun.Watch)
	return answer(shellSession(s), err)
}

// JoinShellSession is one that the caller may join.
func (h Shells) JoinShellSession(ctx context.Context, r *connect.Request[v1.JoinShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Permitted(ctx, r.Msg.GetSession(), noun.Join)
	return answer(shellSession(s), err)
}

// ReplayShellSession is a recording.
func (h Shells) ReplayShellSession(ctx context.Context, r *connect.Request[v1.ReplayShellSessionRequest], out *connect.ServerStream[v1.ReplayShellSessionResponse]) error {
	var f fields
	idle, from := f.duration("idle", r.Msg.GetIdle()), f.duration("from", r.Msg.GetFrom())
	if err := f.err(); err != nil {
		return err
	}
	return h.Service.Replay(ctx, r.Msg.GetSession(), func(events iter.Seq2[recording.Event, error]) error {
		return recording.WriteCast(pieces{out}, recording.From(events, from), idle)
	})
}

// pieces sends what is written.
type pieces struct {
	to *connect.ServerStream[v1.ReplayShellSessionResponse]
}

func (p pieces) Write(b []byte) (int, error) {
	return len(b), p.to.Send(&v1.ReplayShellSessionResponse{Cast: b})
}

func shellSession(s noun.Session) *v1.ShellSession {
	root := func(h recording.Head) string {
		if h.Root == (ledger.Hash{}) {
			return ""
		}
		return hex.EncodeToString(h.Root[:])
	}
	return &v1.ShellSession{
		Id: s.ID, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt), Revision: s.Revision, Scope: scope(s.Scope),
		HostId: s.HostID, HostName: s.HostName, User: s.User, PrincipalId: s.Principal, PrincipalName: s.Who, Address: s.Address,
		Reason: s.Reason, Ticket: s.Ticket, Rule: s.Rule, State: string(s.State), StartedAt: timestamp(s.StartedAt), EndedAt: timestamp(s.EndedAt),
		EndReason: s.EndReason, ExitStatus: int32(s.ExitStatus), Length: duration(s.Head.Length), Bytes: s.Head.Bytes,
		Root: root(s.Head), HostRoot: root(s.Host), Verdict: string(s.Verdict),
	}
}
