package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
	noun "github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/terminal"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// shells are a host with shells, and somebody who may have them.
type shells struct {
	*running
	host    string
	account string
	key     string
}

func (r *running) withShells(t *testing.T) *shells {
	t.Helper()
	m := &terminal.Machine{Dir: t.TempDir()}
	s := r.withHost(t, m.Begin)
	t.Cleanup(m.Close)
	return s
}

// withHost is withShells on a host that does something else when it is ordered one.
func (r *running) withHost(t *testing.T, begin func(fleet.ShellOrder)) *shells {
	t.Helper()
	admin := r.as(r.key)
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "sheller", Permissions: []string{"shell_sessions.open", "shell_sessions.join", "shell_sessions.*", "hosts.read", "workspaces.read"}})
	account := do(t, admin.accounts.CreateServiceAccount, &v1.CreateServiceAccountRequest{Name: "ada"})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: account.Id, Role: "sheller", NotAfter: in(time.Hour)})
	key := do(t, admin.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: "ada", ServiceAccount: account.Id, Permissions: []string{"*", "shell_sessions.open", "shell_sessions.join"}}).Secret
	token := do(t, loopbackv1connect.NewTokenServiceClient(&http.Client{Transport: bearer{r.key, nil, r.client.Transport}}, r.url+"/api").MintToken, &v1.MintTokenRequest{Workspace: "default"})
	s := &shells{running: r, account: account.Id, key: key}
	f := fleet.Run(context.Background(), 1, 1, func(int) *fleet.Agent {
		return &fleet.Agent{Token: token.Secret, Shell: begin, Patience: 100 * time.Millisecond,
			Dialer: wire.Dialer{Endpoint: r.url, TLS: trustless(), Anchor: trust.HashAnchor(r.keys.Anchor), Transport: wire.WebSocket}}
	})
	t.Cleanup(f.Stop)
	if err := f.Wait(t.Context(), func(c fleet.Counts) bool { return c.Linked == 1 }); err != nil {
		t.Fatal(err)
	}
	s.host = f.Agents[0].HostID()
	for tick := time.Tick(10 * time.Millisecond); do(t, admin.hosts.GetHost, &v1.GetHostRequest{Host: s.host}).State != "managed"; {
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatal("the host is not there")
		}
	}
	return s
}

func (s *shells) service(credential string) loopbackv1connect.ShellServiceClient {
	return loopbackv1connect.NewShellServiceClient(&http.Client{Transport: bearer{credential, nil, s.client.Transport}}, s.url+"/api")
}

func (s *shells) way(credential string) terminal.Way {
	return terminal.Way{URL: s.url, TLS: trustless(), Key: credential}
}

func (s *shells) open(t *testing.T, credential string) string {
	t.Helper()
	return do(t, s.service(credential).OpenShell, &v1.OpenShellRequest{Host: s.host, Reason: "a test"}).Id
}

// types is somebody who types in a session and has seen its banner.
func (s *shells) types(t *testing.T, credential, session string) *terminal.Typist {
	t.Helper()
	y := terminal.New(s.way(credential), session, "own")
	if err := y.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaits(t, y, "is recorded")
	return y
}

func awaits(t *testing.T, y *terminal.Typist, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := y.Await(ctx, what); err != nil {
		t.Fatal(err)
	}
}

// ends waits for a session's end.
func (s *shells) ends(t *testing.T, session string) *v1.ShellSession {
	t.Helper()
	for tick := time.Tick(20 * time.Millisecond); ; {
		got := do(t, s.service(s.key).GetShellSession, &v1.GetShellSessionRequest{Session: session})
		if got.State == "ended" {
			return got
		}
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatal("the session does not end")
		}
	}
}

// acts are what the audit log has of a session, oldest first.
func (s *shells) acts(t *testing.T, session string) string {
	t.Helper()
	var out []string
	for _, e := range do(t, s.as(s.running.key).audit.ListEntries, &v1.ListEntriesRequest{Target: session}).Items {
		out = append([]string{strings.TrimPrefix(e.Action, "shell_sessions.")}, out...)
	}
	return strings.Join(out, " ")
}

// A page asks by an ordinary request why its WebSocket was refused. That is no taking part: neither those in the session nor the audit
// log are told of any.
func TestAskingWhyNotLeavesNoTrace(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	ask := func(credential, mode string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/shell/v1/"+session+"?mode="+mode, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+credential)
		res, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, noun.DecodeOver(b).Code
	}
	_, _, stranger := s.holder(t, "stranger", &v1.CreateBindingRequest{Role: "operator"})
	for name, c := range map[string]struct {
		credential, mode string
		status           int
		code             string
	}{
		"who may watch":     {s.running.key, "watch", http.StatusUpgradeRequired, "upgrade_required"},
		"who owns it":       {s.key, "own", http.StatusUpgradeRequired, "upgrade_required"},
		"who may join":      {s.key, "join", http.StatusUpgradeRequired, "upgrade_required"},
		"who may not join":  {stranger, "join", http.StatusForbidden, "permission_denied"},
		"a way that is not": {s.key, "peek", http.StatusBadRequest, "mode_unknown"},
		"nobody":            {"lbk_x", "watch", http.StatusUnauthorized, "api_key_invalid"},
	} {
		if status, code := ask(c.credential, c.mode); status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", name, status, code, c.status, c.code)
		}
	}
	y.Type("echo a$((1+1)); exit\n")
	awaits(t, y, "a2")
	s.ends(t, session)
	if marks := y.Marks(); len(marks) > 0 {
		t.Errorf("the session was told of %q", marks)
	}
	if got := s.acts(t, session); got != "open end" {
		t.Errorf("the audit log has %q", got)
	}
}

// Whoever steals a sign-in has no passkey. They do not get into a shell that its owner has open; the owner does, from where they were,
// for as long as shell.TakenUpAgain.
func TestAStolenSignInTakesNoShellOver(t *testing.T) {
	s := serve(t).withShells(t)
	b := s.signedIn(t, s.key)
	shown := func(ago time.Duration) { // when a passkey was shown
		t.Helper()
		for _, one := range do(t, s.signIns(s.running.key).ListSignIns, &v1.ListSignInsRequest{}).Items {
			if one.UserId != s.account {
				continue
			}
			if err := s.db.Observe(t.Context(), func(tx *storage.Tx) error {
				v, err := tx.SignIn(t.Context(), one.Id)
				if err == nil {
					v.MFAAt = time.Now().Add(-ago)
					_, err = tx.PutSignIn(t.Context(), v)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := refused(t, s.service(b.cookie.Value).OpenShell, &v1.OpenShellRequest{Host: s.host, Reason: "a test"}); got != "step_up_required" {
		t.Fatalf("without a passkey: got %q", got)
	}
	shown(0)
	session := s.open(t, b.cookie.Value)
	y := s.types(t, b.cookie.Value, session)
	shown(10 * time.Minute)
	await := func(code string) { // the credential is remembered for a moment
		t.Helper()
		for tick := time.Tick(20 * time.Millisecond); ; <-tick {
			err := terminal.New(s.way(b.cookie.Value), session, "own").Connect(t.Context())
			if got := fault.Of(err); err != nil && got.Code == code {
				return
			}
			if t.Context().Err() != nil {
				t.Fatalf("got %v, want %s", err, code)
			}
		}
	}
	await("step_up_required")
	if err := terminal.New(s.way(b.cookie.Value), session, "join").Connect(t.Context()); err == nil || fault.Of(err).Code != "step_up_required" {
		t.Errorf("joining by it: got %v", err)
	}
	if err := terminal.New(s.way(b.cookie.Value), session, "watch").Connect(t.Context()); err != nil {
		t.Errorf("who watches types nothing, and shows no passkey: got %v", err)
	}
	y.Cut()
	if err := y.AwaitLost(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := y.Connect(t.Context()); err != nil {
		t.Errorf("its owner, whose network was cut: %v", err)
	}
	thief := terminal.New(s.way(b.cookie.Value), session, "own")
	thief.Steal(y.Proof()) // which is another origin's
	if err := thief.Connect(t.Context()); err == nil || fault.Of(err).Code != "step_up_required" {
		t.Errorf("by what somebody else was given: got %v", err)
	}
	y.Type("exit\n")
	if end := s.ends(t, session); end.Verdict != "agreed" {
		t.Errorf("got %v", end)
	}
}
