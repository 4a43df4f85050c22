package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

// Client is the API as the first administrator sees it. Its methods ask for whole lists, page by page.
type Client struct {
	Tokens     loopbackv1connect.TokenServiceClient
	Hosts      loopbackv1connect.HostServiceClient
	Workspaces loopbackv1connect.WorkspaceServiceClient
	Operations loopbackv1connect.OperationServiceClient
	Locks      loopbackv1connect.LockServiceClient
	Sessions   loopbackv1connect.SessionServiceClient
	Audit      loopbackv1connect.AuditServiceClient
	APIKeys    loopbackv1connect.ApiKeyServiceClient
	Settings   loopbackv1connect.SettingsServiceClient
	Releases   loopbackv1connect.ReleaseServiceClient
	Replicas   loopbackv1connect.ReplicaServiceClient
	Sinks      loopbackv1connect.SinkServiceClient
	Accounts   loopbackv1connect.ServiceAccountServiceClient
	Bindings   loopbackv1connect.BindingServiceClient
	Roles      loopbackv1connect.RoleServiceClient
	Grants     loopbackv1connect.GrantServiceClient
	Offers     loopbackv1connect.GrantPolicyServiceClient
	Execs      loopbackv1connect.ExecServiceClient
	Commands   loopbackv1connect.CommandServiceClient
	Shells     loopbackv1connect.ShellServiceClient
	Guests     loopbackv1connect.GuestServiceClient
	Files      loopbackv1connect.FileServiceClient

	Anchor    trust.AnchorHash // whom agents are to trust
	Workspace string           // the default one
	Key       string           // the administrator's
	HTTP      *http.Client
}

// In is the client in another workspace.
func (c *Client) In(workspace string) *Client {
	other := *c
	other.Workspace = workspace
	return &other
}

// bearer adds the key to every call.
type bearer struct {
	key  string
	next http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.key != "" {
		r.Header.Set("Authorization", "Bearer "+b.key)
	}
	return b.next.RoundTrip(r)
}

// NewClient makes a client with a key, which may be one that is dead.
func NewClient(url string, roots *x509.CertPool, key string) *Client {
	h := &http.Client{Transport: bearer{key, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}}
	u := url + "/api"
	return &Client{
		Tokens: loopbackv1connect.NewTokenServiceClient(h, u), Hosts: loopbackv1connect.NewHostServiceClient(h, u),
		Workspaces: loopbackv1connect.NewWorkspaceServiceClient(h, u), Operations: loopbackv1connect.NewOperationServiceClient(h, u), Locks: loopbackv1connect.NewLockServiceClient(h, u),
		Sessions: loopbackv1connect.NewSessionServiceClient(h, u), Audit: loopbackv1connect.NewAuditServiceClient(h, u),
		APIKeys: loopbackv1connect.NewApiKeyServiceClient(h, u), Settings: loopbackv1connect.NewSettingsServiceClient(h, u),
		Releases: loopbackv1connect.NewReleaseServiceClient(h, u), Replicas: loopbackv1connect.NewReplicaServiceClient(h, u),
		Sinks:    loopbackv1connect.NewSinkServiceClient(h, u),
		Accounts: loopbackv1connect.NewServiceAccountServiceClient(h, u), Bindings: loopbackv1connect.NewBindingServiceClient(h, u),
		Roles: loopbackv1connect.NewRoleServiceClient(h, u), Grants: loopbackv1connect.NewGrantServiceClient(h, u), Offers: loopbackv1connect.NewGrantPolicyServiceClient(h, u),
		Shells:    loopbackv1connect.NewShellServiceClient(h, u),
		Guests:    loopbackv1connect.NewGuestServiceClient(h, u),
		Execs:     loopbackv1connect.NewExecServiceClient(h, u),
		Files:     loopbackv1connect.NewFileServiceClient(h, u),
		Commands:  loopbackv1connect.NewCommandServiceClient(h, u),
		Workspace: "default", Key: key, HTTP: h,
	}
}

func signIn(ctx context.Context, url string, roots *x509.CertPool, code string) (*Client, error) {
	made, err := NewClient(url, roots, "").Sessions.RedeemBootstrapCode(ctx, connect.NewRequest(&pb.RedeemBootstrapCodeRequest{Code: code}))
	if err != nil {
		return nil, fmt.Errorf("redeem the bootstrap code: %w", err)
	}
	c := NewClient(url, roots, made.Msg.GetSecret())
	minted, err := c.Mint(ctx, 1)
	if err != nil {
		return nil, err
	}
	secret, err := token.ParseSecret(minted.GetSecret())
	if err != nil {
		return nil, err
	}
	c.Anchor = trust.AnchorHash(secret.Anchor)
	return c, nil
}

// Mint mints a token of so many uses.
func (c *Client) Mint(ctx context.Context, uses int) (*pb.MintTokenResponse, error) {
	r, err := c.Tokens.MintToken(ctx, connect.NewRequest(&pb.MintTokenRequest{Workspace: c.Workspace, MaxUses: int32(uses)}))
	if err != nil {
		return nil, fmt.Errorf("mint a token: %w", err)
	}
	return r.Msg, nil
}

// AllHosts are all hosts in these states; none: all but removed.
func (c *Client) AllHosts(ctx context.Context, states ...string) ([]*pb.Host, error) {
	var out []*pb.Host
	q := &pb.ListHostsRequest{States: states, Page: &pb.Page{Size: 1000}}
	for {
		r, err := c.Hosts.ListHosts(ctx, connect.NewRequest(q))
		if err != nil {
			return nil, fmt.Errorf("list hosts: %w", err)
		}
		out = append(out, r.Msg.GetItems()...)
		if q.Page.Token = r.Msg.GetNextPageToken(); q.Page.Token == "" {
			return out, nil
		}
	}
}

// Entries are the audit entries of an action on a target, oldest first; empty: of all.
func (c *Client) Entries(ctx context.Context, action, target string) ([]*pb.AuditEntry, error) {
	var out []*pb.AuditEntry
	q := &pb.ListEntriesRequest{Action: action, Target: target, Page: &pb.Page{Size: 1000}}
	for {
		r, err := c.Audit.ListEntries(ctx, connect.NewRequest(q))
		if err != nil {
			return nil, fmt.Errorf("list audit entries: %w", err)
		}
		out = append(out, r.Msg.GetItems()...)
		if q.Page.Token = r.Msg.GetNextPageToken(); q.Page.Token == "" {
			return out, nil
		}
	}
}
