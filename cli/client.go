package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/access"
	loopbackv1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
)

const defaultTimeout = time.Minute

// api is the control plane's services as one account sees them.
type api struct {
	account
	timeout        time.Duration // of --timeout; 0: none was given
	http           *http.Client
	caller         *caller
	stepUp         *stepUp // nil: nobody is asked for a passkey
	organisations  loopbackv1connect.OrganisationServiceClient
	projects       loopbackv1connect.ProjectServiceClient
	workspaces     loopbackv1connect.WorkspaceServiceClient
	tokens         loopbackv1connect.TokenServiceClient
	hosts          loopbackv1connect.HostServiceClient
	operations     loopbackv1connect.OperationServiceClient
	execs          loopbackv1connect.ExecServiceClient
	files          loopbackv1connect.FileServiceClient
	commands       loopbackv1connect.CommandServiceClient
	sessions       loopbackv1connect.SessionServiceClient
	keys           loopbackv1connect.ApiKeyServiceClient
	audit          loopbackv1connect.AuditServiceClient
	settings       loopbackv1connect.SettingsServiceClient
	releases       loopbackv1connect.ReleaseServiceClient
	users          loopbackv1connect.UserServiceClient
	accounts       loopbackv1connect.ServiceAccountServiceClient
	groups         loopbackv1connect.GroupServiceClient
	roles          loopbackv1connect.RoleServiceClient
	bindings       loopbackv1connect.BindingServiceClient
	access         loopbackv1connect.AccessServiceClient
	grants         loopbackv1connect.GrantServiceClient
	reviews        loopbackv1connect.AccessReviewServiceClient
	locks          loopbackv1connect.LockServiceClient
	sessionReviews loopbackv1connect.SessionReviewServiceClient
	grantPolicies  loopbackv1connect.GrantPolicyServiceClient
	sinks          loopbackv1connect.SinkServiceClient
	replicas       loopbackv1connect.ReplicaServiceClient
	signIns        loopbackv1connect.SignInServiceClient
	providers      loopbackv1connect.ProviderServiceClient
	passkeys       loopbackv1connect.PasskeyServiceClient
	invitations    loopbackv1connect.InvitationServiceClient
	shells         loopbackv1connect.ShellServiceClient
	guests         loopbackv1connect.GuestServiceClient
}

// dial makes the clients; nothing is sent yet.
func (a *app) dial() (*api, error) {
	if a.api != nil {
		return a.api, nil
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	if a.api, err = newAPI(s, a.Version); err != nil {
		return nil, err
	}
	a.api.timeout, a.api.stepUp = a.flags.timeout, &stepUp{hint: a.hint}
	a.api.caller.reason = first(a.flags.reason, a.Getenv("LOOPBACK_REASON"))
	a.api.caller.ticket = first(a.flags.ticket, a.Getenv("LOOPBACK_TICKET"))
	a.api.caller.told = func(wait time.Duration, why error) {
		a.hint("%s; trying again in %s", a.api.explain(why), wait.Round(100*time.Millisecond))
	}
	return a.api, nil
}

func newAPI(s account, version string) (*api, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, usage("the CA file holds no PEM certificate")
		}
	}
	c := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: t, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 8,
		// A watch may be silent for hours: a ping finds out that the control plane's machine is gone.
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 20 * time.Second}).DialContext,
	}}
	sign := &caller{key: s.APIKey, agent: "loopback/" + version, told: func(time.Duration, error) {}}
	o := connect.WithInterceptors(sign)
	u := s.URL + "/api"
	return &api{
		account: s, http: c, caller: sign,
		organisations:  loopbackv1connect.NewOrganisationServiceClient(c, u, o),
		projects:       loopbackv1connect.NewProjectServiceClient(c, u, o),
		workspaces:     loopbackv1connect.NewWorkspaceServiceClient(c, u, o),
		tokens:         loopbackv1connect.NewTokenServiceClient(c, u, o),
		hosts:          loopbackv1connect.NewHostServiceClient(c, u, o),
		operations:     loopbackv1connect.NewOperationServiceClient(c, u, o),
		execs:          loopbackv1connect.NewExecServiceClient(c, u, o),
		files:          loopbackv1connect.NewFileServiceClient(c, u, o),
		commands:       loopbackv1connect.NewCommandServiceClient(c, u, o),
		sessions:       loopbackv1connect.NewSessionServiceClient(c, u, o),
		keys:           loopbackv1connect.NewApiKeyServiceClient(c, u, o),
		audit:          loopbackv1connect.NewAuditServiceClient(c, u, o),
		settings:       loopbackv1connect.NewSettingsServiceClient(c, u, o),
		releases:       loopbackv1connect.NewReleaseServiceClient(c, u, o),
		users:          loopbackv1connect.NewUserServiceClient(c, u, o),
		accounts:       loopbackv1connect.NewServiceAccountServiceClient(c, u, o),
		groups:         loopbackv1connect.NewGroupServiceClient(c, u, o),
		roles:          loopbackv1connect.NewRoleServiceClient(c, u, o),
		bindings:       loopbackv1connect.NewBindingServiceClient(c, u, o),
		access:         loopbackv1connect.NewAccessServiceClient(c, u, o),
		grants:         loopbackv1connect.NewGrantServiceClient(c, u, o),
		locks:          loopbackv1connect.NewLockServiceClient(c, u, o),
		sessionReviews: loopbackv1connect.NewSessionReviewServiceClient(c, u, o),
		reviews:        loopbackv1connect.NewAccessReviewServiceClient(c, u, o),
		grantPolicies:  loopbackv1connect.NewGrantPolicyServiceClient(c, u, o),
		sinks:          loopbackv1connect.NewSinkServiceClient(c, u, o),
		replicas:       loopbackv1connect.NewReplicaServiceClient(c, u, o),
		providers:      loopbackv1connect.NewProviderServiceClient(c, u, o),
		invitations:    loopbackv1connect.NewInvitationServiceClient(c, u, o),
		passkeys:       loopbackv1connect.NewPasskeyServiceClient(c, u, o),
		signIns:        loopbackv1connect.NewSignInServiceClient(c, u, o),
		shells:         loopbackv1connect.NewShellServiceClient(c, u, o),
		guests:         loopbackv1connect.NewGuestServiceClient(c, u, o),
	}, nil
}

func (a *app) close() {
	if a.api != nil {
		a.api.http.CloseIdleConnections()
	}
}

// deadline bounds a call; long is for commands that wait by nature and end only by --timeout.
func (c *api) deadline(ctx context.Context, long bool) (context.Context, context.CancelFunc) {
	switch {
	case c.timeout > 0:
		return context.WithTimeout(ctx, c.timeout)
	case long:
		return context.WithCancel(ctx)
	default:
		return context.WithTimeout(ctx, defaultTimeout)
	}
}

// with is a command's body that calls the control plane.
func (a *app) with(body func(ctx context.Context, s *api, words []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, words []string) error {
		s, err := a.dial()
		if err != nil {
			return err
		}
		return body(c.Context(), s, words)
	}
}

// passing tells whether a failure of the connection may end by itself. What the control plane said on purpose, and a
// certificate that is not trusted, stay.
func passing(err error) bool {
	e := fault.Of(err)
	switch e.Code {
	case "tls_untrusted", "tls_name", "tls_clock", "not_control_plane":
		return false
	}
	return e.Kind == fault.Unavailable || e.Kind == fault.Timeout || e.Kind == fault.Canceled || e.Kind == fault.Exhausted
}

// pause waits before the control plane is asked again, for as long as it asked to where it did; false where ctx ended.
func pause(ctx context.Context, why error) bool {
	wait := retry
	if why != nil {
		wait = max(wait, fault.Of(why).RetryAfter)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// retry is how long what waits does so before it asks anew.
const retry = time.Second

// call makes one unary call. It ends after --timeout, or a minute. Where a passkey has to be shown for it, it waits for that and
// calls again.
func call[Q, A any](ctx context.Context, s *api, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	return steppingUp(ctx, s, func() (*A, error) { return callOnce(ctx, s, method, q) })
}

func callOnce[Q, A any](ctx context.Context, s *api, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	ctx, cancel := s.deadline(ctx, false)
	defer cancel()
	r, err := method(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, s.explain(err)
	}
	return r.Msg, nil
}

// caller signs requests, and makes those again that the control plane asks to.
type caller struct {
	key, agent     string
	reason, ticket string // why the caller calls
	told           func(wait time.Duration, why error)
	failed         atomic.Pointer[string] // request id of the last call that failed
}

func (c *caller) sign(h http.Header) {
	if c.key != "" {
		h.Set("Authorization", "Bearer "+c.key)
	}
	h.Set("User-Agent", c.agent)
	for name, value := range map[string]string{access.ReasonHeader: c.reason, access.TicketHeader: c.ticket} {
		if value != "" {
			h.Set(name, url.PathEscape(value))
		}
	}
}

func (c *caller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		c.sign(r.Header())
		var answer connect.AnyResponse
		err := politely(ctx, r.Spec(), c.told, func() (err error) {
			answer, err = next(ctx, r)
			return err
		})
		return answer, err
	}
}

func (c *caller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		c.sign(conn.RequestHeader())
		return conn
	}
}

func (c *caller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// explain turns what a call failed with into a fault: what the server said, or what kept it from being asked.
func (c *api) explain(err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	if !connect.IsWireError(err) {
		return c.unreachable(err, ce)
	}
	e := fault.New(fault.Kind(ce.Code().String()), ce.Code().String(), "%s", ce.Message())
	for _, d := range ce.Details() {
		v, err := d.Value()
		detail, ok := v.(*loopbackv1.ErrorDetail)
		if err != nil || !ok {
			continue
		}
		e.Code, e.Hint, e.RetryAfter = detail.Code, detail.Hint, detail.RetryAfter.AsDuration()
		c.caller.failed.Store(&detail.RequestId)
		for _, f := range detail.Violations {
			e.Violations = append(e.Violations, fault.Violation{Field: f.Field, Message: f.Message})
		}
	}
	return e
}

func (c *api) unreachable(err error, ce *connect.Error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	switch {
	case ce.Code() == connect.CodeCanceled:
		return fault.New(fault.Canceled, "canceled", "interrupted")
	case ce.Code() == connect.CodeDeadlineExceeded:
		return fault.New(fault.Timeout, "timeout", "the control plane did not answer in time").WithHint("--timeout sets how long to wait")
	case errors.As(err, &unknown):
		return fault.New(fault.Unavailable, "tls_untrusted", "the certificate of %s is signed by an unknown authority", c.URL).
			WithHint("pass its CA by --ca-file or LOOPBACK_CA_FILE")
	case errors.As(err, &name):
		return fault.New(fault.Unavailable, "tls_name", "the certificate of %s is not for this name: %s", c.URL, name.Error()).
			WithHint("start loopbackd with --tls-name, or use a name that the certificate has")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fault.New(fault.Unavailable, "tls_clock", "by this machine's clock the certificate of %s is not valid", c.URL).
			WithHint("check the clock; if it is right, the control plane needs a new certificate")
	case ce.Code() == connect.CodeUnimplemented:
		return fault.New(fault.Unavailable, "not_control_plane", "what answers at %s is not a control plane: %s", c.URL, oneLine(ce.Message())).
			WithHint("is this the right URL?")
	case errors.As(err, &dns):
		return fault.New(fault.Unavailable, "dns_failed", "the name %s cannot be resolved", dns.Name).WithHint("check the URL and this machine's DNS")
	default:
		return fault.New(fault.Unavailable, "unreachable", "the control plane at %s cannot be reached: %s", c.URL, oneLine(ce.Message())).
			WithHint("is loopbackd running there, and is this the right URL?")
	}
}
