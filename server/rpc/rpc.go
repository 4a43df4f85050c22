// Package rpc is the API's edge: wire on one side, the control plane's slices on the other, and nothing in between but
// conversions.
//
// A call takes one way, whichever protocol it speaks (Connect, gRPC, gRPC-Web, or plain JSON over POST):
//
//	request id ─▶ who calls ─▶ does the caller hold the method's permission anywhere ─▶ a place (package limit)
//	          ─▶ read the message (≤ 4 MiB) ─▶ bounds of texts and lists ─▶ deadline
//	          ─▶ the slice: authorises on the resource itself, acts ─▶ answer, or an error with its detail
//
// The permission that a method needs is an option of the method in its .proto file. A method without one, or with one
// that the list in permissions.go does not know, stops the program when the handler is built, so nothing is ever served
// unguarded. The check here is only the cheap half: who holds a permission nowhere is turned away before their message
// is read. Whether they hold it for this resource is for the slice to decide, which knows where the resource lives.
//
// Errors leave as their fault kind's RPC code with a loopback.v1.ErrorDetail: stable code, hint, field violations, when
// to retry, and the request id under which the rest is in the log. What is not a *fault.Error, and a panic, leaves as
// "internal error" and is logged here with its cause.
package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/server/limit"
)

// MaxMessage is the size of the largest request that is read, in bytes, once it is decompressed.
const MaxMessage = 4 << 20

// DefaultTimeout is how long a method may take that has no bound of its own.
const DefaultTimeout = 30 * time.Second

// Services are what the API consists of: one field for each service of the .proto files. A service left out answers
// that it is not implemented.
type Services struct {
	ApiKeys         loopbackv1connect.ApiKeyServiceHandler
	Audit           loopbackv1connect.AuditServiceHandler
	Changes         loopbackv1connect.ChangeServiceHandler
	Execs           loopbackv1connect.ExecServiceHandler
	Files           loopbackv1connect.FileServiceHandler
	Commands        loopbackv1connect.CommandServiceHandler
	Guests          loopbackv1connect.GuestServiceHandler
	Hosts           loopbackv1connect.HostServiceHandler
	Invitations     loopbackv1connect.InvitationServiceHandler
	Operations      loopbackv1connect.OperationServiceHandler
	Organisations   loopbackv1connect.OrganisationServiceHandler
	Passkeys        loopbackv1connect.PasskeyServiceHandler
	Projects        loopbackv1connect.ProjectServiceHandler
	Releases        loopbackv1connect.ReleaseServiceHandler
	Sessions        loopbackv1connect.SessionServiceHandler
	Settings        loopbackv1connect.SettingsServiceHandler
	Shells          loopbackv1connect.ShellServiceHandler
	SignIns         loopbackv1connect.SignInServiceHandler
	Providers       loopbackv1connect.ProviderServiceHandler
	Sinks           loopbackv1connect.SinkServiceHandler
	Tokens          loopbackv1connect.TokenServiceHandler
	Access          loopbackv1connect.AccessServiceHandler
	AccessReviews   loopbackv1connect.AccessReviewServiceHandler
	Bindings        loopbackv1connect.BindingServiceHandler
	GrantPolicies   loopbackv1connect.GrantPolicyServiceHandler
	Grants          loopbackv1connect.GrantServiceHandler
	Groups          loopbackv1connect.GroupServiceHandler
	Locks           loopbackv1connect.LockServiceHandler
	SessionReviews  loopbackv1connect.SessionReviewServiceHandler
	Replicas        loopbackv1connect.ReplicaServiceHandler
	Roles           loopbackv1connect.RoleServiceHandler
	ServiceAccounts loopbackv1connect.ServiceAccountServiceHandler
	Users           loopbackv1connect.UserServiceHandler
	Workspaces      loopbackv1connect.WorkspaceServiceHandler
}

// Options of the handler.
type Options struct {
	Logger  *slog.Logger                   // nil: slog.Default
	Address func(*http.Request) netip.Addr // the caller's address, where a proxy stands in front; nil: the peer's
	Observe func(Call)                     // told of every call when it ends; nil: nobody is
	Timeout time.Duration                  // of methods without a bound of their own; 0: DefaultTimeout
	Limits  *limit.Limiter                 // holds callers to their share; nil: nobody is held to any
	Tracer  trace.Tracer                   // nil: calls are not traced
	// Stopping ends when the server is about to stop: calls that last as long as their callers like end then. Nil: never.
	Stopping context.Context
}

// Call is what became of a call, for metrics.
type Call struct {
	Procedure string // "/loopback.v1.TokenService/MintToken"
	Code      string // "ok", or the RPC code's name
	Duration  time.Duration
}

// Handler serves the API under /loopback.v1.…Service/; mount it behind http.StripPrefix("/api", …).
func Handler(s Services, authenticate Authenticator, o Options) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Address == nil {
		o.Address = PeerAddress
	}
	if o.Observe == nil {
		o.Observe = func(Call) {}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Limits == nil {
		o.Limits = limit.New(limit.Options{})
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	e := &edge{authenticate: authenticate, options: o, permissions: permissionsByProcedure()}
	opts := []connect.HandlerOption{
		connect.WithRequestGate(e.gate),
		connect.WithInterceptors(e),
		connect.WithReadMaxBytes(MaxMessage),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
	}
	mux := http.NewServeMux()
	mount := func(path string, h http.Handler) { mux.Handle(path, h) }
	mount(loopbackv1connect.NewApiKeyServiceHandler(or[loopbackv1connect.ApiKeyServiceHandler](s.ApiKeys, loopbackv1connect.UnimplementedApiKeyServiceHandler{}), opts...))
	mount(loopbackv1connect.NewAccessReviewServiceHandler(or[loopbackv1connect.AccessReviewServiceHandler](s.AccessReviews, loopbackv1connect.UnimplementedAccessReviewServiceHandler{}), opts...))
	mount(loopbackv1connect.NewCommandServiceHandler(or[loopbackv1connect.CommandServiceHandler](s.Commands, loopbackv1connect.UnimplementedCommandServiceHandler{}), opts...))
	mount(loopbackv1connect.NewExecServiceHandler(or[loopbackv1connect.ExecServiceHandler](s.Execs, loopbackv1connect.UnimplementedExecServiceHandler{}), opts...))
	mount(loopbackv1connect.NewFileServiceHandler(or[loopbackv1connect.FileServiceHandler](s.Files, loopbackv1connect.UnimplementedFileServiceHandler{}), opts...))
	mount(loopbackv1connect.NewAuditServiceHandler(or[loopbackv1connect.AuditServiceHandler](s.Audit, loopbackv1connect.UnimplementedAuditServiceHandler{}), opts...))
	mount(loopbackv1connect.NewChangeServiceHandler(or[loopbackv1connect.ChangeServiceHandler](s.Changes, loopbackv1connect.UnimplementedChangeServiceHandler{}), opts...))
	mount(loopbackv1connect.NewHostServiceHandler(or[loopbackv1connect.HostServiceHandler](s.Hosts, loopbackv1connect.UnimplementedHostServiceHandler{}), opts...))
	mount(loopbackv1connect.NewSessionReviewServiceHandler(or[loopbackv1connect.SessionReviewServiceHandler](s.SessionReviews, loopbackv1connect.UnimplementedSessionReviewServiceHandler{}), opts...))
	mount(loopbackv1connect.NewLockServiceHandler(or[loopbackv1connect.LockServiceHandler](s.Locks, loopbackv1connect.UnimplementedLockServiceHandler{}), opts...))
	mount(loopbackv1connect.NewInvitationServiceHandler(or[loopbackv1connect.InvitationServiceHandler](s.Invitations, loopbackv1connect.UnimplementedInvitationServiceHandler{}), opts...))
	mount(loopbackv1connect.NewOperationServiceHandler(or[loopbackv1connect.OperationServiceHandler](s.Operations, loopbackv1connect.UnimplementedOperationServiceHandler{}), opts...))
	mount(loopbackv1connect.NewOrganisationServiceHandler(or[loopbackv1connect.OrganisationServiceHandler](s.Organisations, loopbackv1connect.UnimplementedOrganisationServiceHandler{}), opts...))
	mount(loopbackv1connect.NewPasskeyServiceHandler(or[loopbackv1connect.PasskeyServiceHandler](s.Passkeys, loopbackv1connect.UnimplementedPasskeyServiceHandler{}), opts...))
	mount(loopbackv1connect.NewProjectServiceHandler(or[loopbackv1connect.ProjectServiceHandler](s.Projects, loopbackv1connect.UnimplementedProjectServiceHandler{}), opts...))
	mount(loopbackv1connect.NewReleaseServiceHandler(or[loopbackv1connect.ReleaseServiceHandler](s.Releases, loopbackv1connect.UnimplementedReleaseServiceHandler{}), opts...))
	mount(loopbackv1connect.NewSessionServiceHandler(or[loopbackv1connect.SessionServiceHandler](s.Sessions, loopbackv1connect.UnimplementedSessionServiceHandler{}), opts...))
	mount(loopbackv1connect.NewSettingsServiceHandler(or[loopbackv1connect.SettingsServiceHandler](s.Settings, loopbackv1connect.UnimplementedSettingsServiceHandler{}), opts...))
	mount(loopbackv1connect.NewShellServiceHandler(or[loopbackv1connect.ShellServiceHandler](s.Shells, loopbackv1connect.UnimplementedShellServiceHandler{}), opts...))
	mount(loopbackv1connect.NewProviderServiceHandler(or[loopbackv1connect.ProviderServiceHandler](s.Providers, loopbackv1connect.UnimplementedProviderServiceHandler{}), opts...))
	mount(loopbackv1connect.NewGuestServiceHandler(or[loopbackv1connect.GuestServiceHandler](s.Guests, loopbackv1connect.UnimplementedGuestServiceHandler{}), opts...))
	mount(loopbackv1connect.NewSignInServiceHandler(or[loopbackv1connect.SignInServiceHandler](s.SignIns, loopbackv1connect.UnimplementedSignInServiceHandler{}), opts...))
	mount(loopbackv1connect.NewSinkServiceHandler(or[loopbackv1connect.SinkServiceHandler](s.Sinks, loopbackv1connect.UnimplementedSinkServiceHandler{}), opts...))
	mount(loopbackv1connect.NewTokenServiceHandler(or[loopbackv1connect.TokenServiceHandler](s.Tokens, loopbackv1connect.UnimplementedTokenServiceHandler{}), opts...))
	mount(loopbackv1connect.NewAccessServiceHandler(or[loopbackv1connect.AccessServiceHandler](s.Access, loopbackv1connect.UnimplementedAccessServiceHandler{}), opts...))
	mount(loopbackv1connect.NewBindingServiceHandler(or[loopbackv1connect.BindingServiceHandler](s.Bindings, loopbackv1connect.UnimplementedBindingServiceHandler{}), opts...))
	mount(loopbackv1connect.NewGrantPolicyServiceHandler(or[loopbackv1connect.GrantPolicyServiceHandler](s.GrantPolicies, loopbackv1connect.UnimplementedGrantPolicyServiceHandler{}), opts...))
	mount(loopbackv1connect.NewGrantServiceHandler(or[loopbackv1connect.GrantServiceHandler](s.Grants, loopbackv1connect.UnimplementedGrantServiceHandler{}), opts...))
	mount(loopbackv1connect.NewGroupServiceHandler(or[loopbackv1connect.GroupServiceHandler](s.Groups, loopbackv1connect.UnimplementedGroupServiceHandler{}), opts...))
	mount(loopbackv1connect.NewReplicaServiceHandler(or[loopbackv1connect.ReplicaServiceHandler](s.Replicas, loopbackv1connect.UnimplementedReplicaServiceHandler{}), opts...))
	mount(loopbackv1connect.NewRoleServiceHandler(or[loopbackv1connect.RoleServiceHandler](s.Roles, loopbackv1connect.UnimplementedRoleServiceHandler{}), opts...))
	mount(loopbackv1connect.NewServiceAccountServiceHandler(or[loopbackv1connect.ServiceAccountServiceHandler](s.ServiceAccounts, loopbackv1connect.UnimplementedServiceAccountServiceHandler{}), opts...))
	mount(loopbackv1connect.NewUserServiceHandler(or[loopbackv1connect.UserServiceHandler](s.Users, loopbackv1connect.UnimplementedUserServiceHandler{}), opts...))
	mount(loopbackv1connect.NewWorkspaceServiceHandler(or[loopbackv1connect.WorkspaceServiceHandler](s.Workspaces, loopbackv1connect.UnimplementedWorkspaceServiceHandler{}), opts...))
	mux.HandleFunc("/", e.unknown)
	return e.identify(mux)
}

func or[T any](service, unimplemented T) T {
	if any(service) == nil {
		return unimplemented
	}
	return service
}

// PeerAddress is the address at the other end of the connection.
func PeerAddress(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
