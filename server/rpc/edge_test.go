package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/rpc"
)

// scripted is a token service whose answers a test writes.
type scripted struct {
	loopbackv1connect.UnimplementedTokenServiceHandler
	get  func(context.Context) (*v1.Token, error)
	mint func(context.Context, *v1.MintTokenRequest) error
}

func (s scripted) GetToken(ctx context.Context, _ *connect.Request[v1.GetTokenRequest]) (*connect.Response[v1.Token], error) {
	t, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(t), nil
}

func (s scripted) MintToken(ctx context.Context, r *connect.Request[v1.MintTokenRequest]) (*connect.Response[v1.MintTokenResponse], error) {
	return connect.NewResponse(&v1.MintTokenResponse{}), s.mint(ctx, r.Msg)
}

// watching is a host service whose stream a test writes.
type watching struct {
	loopbackv1connect.UnimplementedHostServiceHandler
	watch func(context.Context, *connect.ServerStream[v1.WatchHostsResponse]) error
}

func (w watching) WatchHosts(ctx context.Context, _ *connect.Request[v1.WatchHostsRequest], s *connect.ServerStream[v1.WatchHostsResponse]) error {
	return w.watch(ctx, s)
}

// doors lets in whoever presents the name of an actor.
type doors map[string]access.Actor

func (d doors) Authenticate(_ context.Context, credential string, _ netip.Addr) (access.Actor, error) {
	if a, ok := d[credential]; ok {
		return a, nil
	}
	return access.Actor{}, apikey.ErrInvalid
}

func holding(p ...access.Permission) access.Actor {
	return access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: p, Scope: access.Scope{Workspace: "ws_1"}}}})
}

type bench struct {
	client *http.Client
	url    string
	log    *bytes.Buffer
	mu     *sync.Mutex
	calls  *[]rpc.Call
}

func serve(t *testing.T, s rpc.Services, actors doors, timeout time.Duration) bench {
	t.Helper()
	b := bench{log: &bytes.Buffer{}, mu: &sync.Mutex{}, calls: &[]rpc.Call{}}
	h := rpc.Handler(s, actors, rpc.Options{
		Logger: slog.New(slog.NewJSONHandler(b.log, nil)), Timeout: timeout,
		Observe: func(c rpc.Call) { b.mu.Lock(); *b.calls = append(*b.calls, c); b.mu.Unlock() },
	})
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	b.url = server.URL
	b.client = server.Client()
	return b
}

func (b bench) post(t *testing.T, method, credential, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, b.url+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// wireError is an error as a script sees it.
type wireError struct {
	Code, Message string
	Details       []struct {
		Type  string
		Debug struct {
			Code, Hint, RequestID string
			RetryAfter            string
			Violations            []struct{ Field, Message string }
		}
	}
}

func readError(t *testing.T, text string) wireError {
	t.Helper()
	var e wireError
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Code == "" {
		t.Fatalf("got %q, want an error in JSON (%v)", text, err)
	}
	return e
}

const getToken, mintToken = "/loopback.v1.TokenService/GetToken", "/loopback.v1.TokenService/MintToken"

func TestCallersAreTurnedAwayAtTheEdge(t *testing.T) {
	s := rpc.Services{Tokens: scripted{get: func(context.Context) (*v1.Token, error) { return &v1.Token{Id: "tok_1"}, nil }}}
	b := serve(t, s, doors{"reader": holding("agent_tokens.list"), "writer": holding("agent_tokens.mint"), "all": holding(access.All)}, 0)
	for name, c := range map[string]struct {
		credential, header string
		status             int
		code               string
	}{
		"nobody":                      {"", "", 401, "not_signed_in"},
		"unknown credential":          {"stranger", "", 401, "api_key_invalid"},
		"another scheme":              {"", "Basic eDp5", 401, "not_signed_in"},
		"without the permission":      {"writer", "", 403, "permission_denied"},
		"with the permission":         {"reader", "", 200, ""},
		"with every permission":       {"all", "", 200, ""},
		"scheme in another case":      {"", "bearer reader", 200, ""},
		"scheme without a credential": {"", "Bearer", 401, "api_key_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			var extra []string
			if c.header != "" {
				extra = []string{"Authorization", c.header}
			}
			res, text := b.post(t, getToken, c.credential, `{"token":"tok_1"}`, extra...)
			if res.StatusCode != c.status {
				t.Fatalf("got status %d with %s, want %d", res.StatusCode, text, c.status)
			}
			if c.status == 200 {
				return
			}
			e := readError(t, text)
			if len(e.Details) != 1 || e.Details[0].Debug.Code != c.code || e.Details[0].Debug.Hint == "" {
				t.Errorf("got %s, want code %s with a hint", text, c.code)
			}
		})
	}
}

func TestADeadKeyDoesNotKeepAnybodyFromRedeemingTheCode(t *testing.T) {
	b := serve(t, rpc.Services{}, doors{}, 0)
	if _, text := b.post(t, "/loopback.v1.SessionService/RedeemBootstrapCode", "dead", `{}`); readError(t, text).Code != "unimplemented" {
		t.Errorf("got %s, want the call to reach the service", text)
	}
	if _, text := b.post(t, "/loopback.v1.SessionService/WhoAmI", "dead", `{}`); readError(t, text).Code != "unauthenticated" {
		t.Errorf("got %s, want it refused elsewhere", text)
	}
}

func TestErrorsCarryEverythingButTheirCause(t *testing.T) {
	var check fault.Check
	check.Add("ttl", "is too long")
	invalid := check.Err("token_invalid", "the token is not valid")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"violations":    {invalid, `{"code":"invalid_argument","message":"the token is not valid"}`},
		"cause":         {fault.New(fault.Unavailable, "busy", "try again").WithRetryAfter(3 * time.Second).WithCause(errors.New("secret detail")), `{"code":"unavailable","message":"try again"}`},
		"not a fault":   {errors.New("secret detail"), `{"code":"internal","message":"internal error"}`},
		"wrapped fault": {errors.Join(errors.New("secret detail"), access.NotFound("token tok_1")), `{"code":"not_found","message":"token tok_1 was not found"}`},
		"deadline":      {context.DeadlineExceeded, `{"code":"deadline_exceeded","message":"the request timed out"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := rpc.Services{Tokens: scripted{get: func(context.Context) (*v1.Token, error) { return nil, c.err }}}
			b := serve(t, s, doors{"reader": holding("agent_tokens.list")}, 0)
			res, text := b.post(t, getToken, "reader", `{}`, rpc.RequestID, "mine-1")
			e := readError(t, text)
			got, _ := json.Marshal(struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			}{e.Code, e.Message})
			if string(got) != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if strings.Contains(text, "secret detail") {
				t.Errorf("the answer holds the cause: %s", text)
			}
			if len(e.Details) != 1 || e.Details[0].Debug.RequestID != "mine-1" || res.Header.Get(rpc.RequestID) != "mine-1" {
				t.Errorf("got %s and header %q, want the request id in both", text, res.Header.Get(rpc.RequestID))
			}
			if name == "violations" && (len(e.Details[0].Debug.Violations) != 1 || e.Details[0].Debug.Violations[0].Field != "ttl") {
				t.Errorf("got %s, want the violation of ttl", text)
			}
			if name == "cause" && e.Details[0].Debug.RetryAfter != "3s" {
				t.Errorf("got %s, want retryAfter 3s", text)
			}
			if logged := strings.Contains(b.log.String(), "secret detail"); logged != (name == "not a fault") {
				t.Errorf("the cause is in the log: %t (%s), want it there only for what is no fault", logged, b.log)
			}
		})
	}
}

func TestPanicsAreInternalErrorsAndNothingElse(t *testing.T) {
	s := rpc.Services{
		Tokens: scripted{get: func(context.Context) (*v1.Token, error) { panic("secret detail") }},
		Hosts:  watching{watch: func(context.Context, *connect.ServerStream[v1.WatchHostsResponse]) error { panic("secret detail") }},
	}
	b := serve(t, s, doors{"all": holding(access.All)}, 0)
	if res, text := b.post(t, getToken, "all", `{}`); res.StatusCode != 500 || strings.Contains(text, "secret detail") {
		t.Errorf("got %d %s, want 500 without what it panicked with", res.StatusCode, text)
	}
	stream, err := loopbackv1connect.NewHostServiceClient(b.client, b.url).WatchHosts(t.Context(), withKey(&v1.WatchHostsRequest{}, "all"))
	if err != nil {
		t.Fatal(err)
	}
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeInternal {
		t.Errorf("got %v from the stream, want an internal error", stream.Err())
	}
	if n := strings.Count(b.log.String(), "a call panicked"); n != 2 {
		t.Errorf("got %d panics in the log, want 2: %s", n, b.log)
	}
}

func withKey[T any](m *T, credential string) *connect.Request[T] {
	r := connect.NewRequest(m)
	r.Header().Set("Authorization", "Bearer "+credential)
	return r
}

func TestTheActorReachesTheSliceInEveryProtocol(t *testing.T) {
	var got access.Actor
	s := rpc.Services{
		Tokens: scripted{get: func(ctx context.Context) (*v1.Token, error) { got = access.ActorFrom(ctx); return &v1.Token{}, nil }},
		Hosts: watching{watch: func(ctx context.Context, s *connect.ServerStream[v1.WatchHostsResponse]) error {
			got = access.ActorFrom(ctx)
			return s.Send(&v1.WatchHostsResponse{})
		}},
	}
	b := serve(t, s, doors{"all": holding(access.All)}, 0)
	for name, opts := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
		"Connect GET": {connect.WithHTTPGet()},
	} {
		got = access.Actor{}
		if _, err := loopbackv1connect.NewTokenServiceClient(b.client, b.url, opts...).GetToken(t.Context(), withKey(&v1.GetTokenRequest{}, "all")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got.ID != "key_1" || got.Address != "127.0.0.1" || got.RequestID == "" {
			t.Errorf("%s: got actor %+v, want key_1 from 127.0.0.1 with a request id", name, got)
		}
		got = access.Actor{}
		stream, err := loopbackv1connect.NewHostServiceClient(b.client, b.url, opts...).WatchHosts(t.Context(), withKey(&v1.WatchHostsRequest{}, "all"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !stream.Receive() || got.ID != "key_1" {
			t.Errorf("%s: got stream error %v and actor %+v, want a message for key_1", name, stream.Err(), got)
		}
		stream.Close()
		_, err = loopbackv1connect.NewTokenServiceClient(b.client, b.url, opts...).GetToken(t.Context(), connect.NewRequest(&v1.GetTokenRequest{}))
		var ce *connect.Error
		if !errors.As(err, &ce) || ce.Code() != connect.CodeUnauthenticated || len(ce.Details()) != 1 {
			t.Errorf("%s without a key: got %v, want unauthenticated with a detail", name, err)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s := rpc.Services{Tokens: scripted{
		mint: func(context.Context, *v1.MintTokenRequest) error { return nil },
		get:  func(ctx context.Context) (*v1.Token, error) { <-ctx.Done(); return nil, ctx.Err() },
	}}
	b := serve(t, s, doors{"all": holding(access.All)}, 20*time.Millisecond)
	if res, text := b.post(t, mintToken, "all", `{"description":"`+strings.Repeat("x", rpc.MaxMessage)+`"}`); readError(t, text).Code != "resource_exhausted" {
		t.Errorf("got %d %.200s for a message that is too large, want resource_exhausted", res.StatusCode, text)
	}
	if _, text := b.post(t, getToken, "all", `{}`); readError(t, text).Code != "deadline_exceeded" {
		t.Errorf("got %s from a method that hangs, want deadline_exceeded", text)
	}
	if _, text := b.post(t, mintToken, "all", `{"maxUsses": 3}`); readError(t, text).Code != "invalid_argument" || !strings.Contains(text, "maxUsses") {
		t.Errorf("got %s for a misspelt field, want invalid_argument that names it", text)
	}
	if res, text := b.post(t, mintToken, "all", ``); readError(t, text).Code != "invalid_argument" {
		t.Errorf("got %d %s for an empty body, want invalid_argument", res.StatusCode, text)
	}
	if res, text := b.post(t, "/loopback.v1.TokenService/Nothing", "all", `{}`); res.StatusCode != 404 {
		t.Errorf("got %d %s for no method, want 404", res.StatusCode, text)
	}
	long := strings.Repeat("a", 65)
	for _, id := range []string{"", "with space", long, "new\u00e9"} {
		res, _ := b.post(t, mintToken, "all", `{}`, rpc.RequestID, id)
		if got := res.Header.Get(rpc.RequestID); got == id || !strings.HasPrefix(got, "req_") {
			t.Errorf("request id %q came back as %q, want a fresh one", id, got)
		}
	}
}

func TestJSONHasEveryFieldAndAlwaysTheSameBytes(t *testing.T) {
	s := rpc.Services{Tokens: scripted{get: func(context.Context) (*v1.Token, error) { return &v1.Token{Id: "tok_1"}, nil }}}
	b := serve(t, s, doors{"all": holding(access.All)}, 0)
	_, first := b.post(t, getToken, "all", `{}`)
	for range 20 {
		if _, again := b.post(t, getToken, "all", `{}`); again != first {
			t.Fatalf("got %s, then %s", first, again)
		}
	}
	for _, want := range []string{`"id":"tok_1"`, `"uses":0`, `"warnings":[]`, `"labels":{}`, `"honeytoken":false`} {
		if !strings.Contains(first, want) {
			t.Errorf("got %s, want %s in it", first, want)
		}
	}
}

func TestEveryCallIsObservedOnce(t *testing.T) {
	s := rpc.Services{Tokens: scripted{get: func(context.Context) (*v1.Token, error) { return &v1.Token{}, nil }}}
	b := serve(t, s, doors{"all": holding(access.All)}, 0)
	b.post(t, getToken, "all", `{}`)
	b.post(t, getToken, "", `{}`)
	b.post(t, mintToken[:len(mintToken)-len("MintToken")]+"RotateToken", "all", `{}`)
	b.mu.Lock()
	defer b.mu.Unlock()
	var got []string
	for _, c := range *b.calls {
		got = append(got, c.Code)
	}
	if strings.Join(got, " ") != "ok unauthenticated unimplemented" {
		t.Errorf("got %v, want ok, unauthenticated, unimplemented", got)
	}
}

func TestLastingCallsEndWhenTheServerStops(t *testing.T) {
	stopping, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	h := rpc.Handler(rpc.Services{Hosts: watching{watch: func(ctx context.Context, _ *connect.ServerStream[v1.WatchHostsResponse]) error {
		close(watched)
		<-ctx.Done()
		return ctx.Err()
	}}}, doors{"all": holding(access.All)}, rpc.Options{Stopping: stopping})
	server := httptest.NewTLSServer(h)
	defer server.Close()
	go func() { <-watched; stop() }()
	stream, err := loopbackv1connect.NewHostServiceClient(server.Client(), server.URL).WatchHosts(t.Context(), withKey(&v1.WatchHostsRequest{}, "all"))
	if err == nil {
		stream.Receive()
		err = stream.Err()
	}
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("got %v, want unavailable because it is stopping", err)
	}
}

func TestReasonAndTicketReachTheSlice(t *testing.T) {
	var got access.Actor
	s := rpc.Services{Tokens: scripted{get: func(ctx context.Context) (*v1.Token, error) { got = access.ActorFrom(ctx); return &v1.Token{}, nil }}}
	b := serve(t, s, doors{"all": holding(access.All)}, 0)
	for name, c := range map[string]struct{ header, sent, reason, ticket, code string }{
		"plain":             {access.ReasonHeader, "disk full", "disk full", "", ""},
		"raw UTF-8":         {access.ReasonHeader, "Plattenplatz für Ä", "Plattenplatz für Ä", "", ""},
		"encoded":           {access.ReasonHeader, "100%25 %e2%82%ac", "100% €", "", ""},
		"a plus is a plus":  {access.TicketHeader, "a+b", "", "a+b", ""},
		"spaces around":     {access.TicketHeader, "  OPS-1 ", "", "OPS-1", ""},
		"nothing":           {access.TicketHeader, "", "", "", ""},
		"badly encoded":     {access.ReasonHeader, "100%", "", "", "reason_invalid"},
		"no UTF-8":          {access.ReasonHeader, "%ff", "", "", "reason_invalid"},
		"a line feed":       {access.ReasonHeader, "a%0ab", "", "", "reason_invalid"},
		"the other way":     {access.ReasonHeader, "a%e2%80%aeb", "", "", "reason_invalid"},
		"too long a reason": {access.ReasonHeader, strings.Repeat("a", access.MaxReason+1), "", "", "reason_invalid"},
		"too long a ticket": {access.TicketHeader, strings.Repeat("a", access.MaxTicket+1), "", "", "reason_invalid"},
	} {
		got = access.Actor{}
		_, text := b.post(t, getToken, "all", `{}`, c.header, c.sent)
		if c.code != "" {
			if !strings.Contains(text, c.code) || !strings.Contains(text, c.header) || got.ID != "" {
				t.Errorf("%s: got %s, want %s about %s", name, text, c.code, c.header)
			}
		} else if got.Reason != c.reason || got.Ticket != c.ticket || got.ID == "" {
			t.Errorf("%s: got %q and %q (%s)", name, got.Reason, got.Ticket, text)
		}
	}
}
