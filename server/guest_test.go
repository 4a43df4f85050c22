package server

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/server/storage"
	noun "github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/test/terminal"
)

func (r *running) guests(credential string, headers ...string) loopbackv1connect.GuestServiceClient {
	return loopbackv1connect.NewGuestServiceClient(&http.Client{Transport: bearer{credential, headers, r.client.Transport}}, r.url+"/api")
}

func (s *shells) invites(t *testing.T, credential, session string) *v1.InviteGuestResponse {
	t.Helper()
	return do(t, s.guests(credential, "Loopback-Reason", "case 4711").InviteGuest, &v1.InviteGuestRequest{Session: session, Name: "Vendor, Jane"})
}

// looks is a guest who sees what is there.
func (s *shells) looks(t *testing.T, link *v1.InviteGuestResponse) *terminal.Typist {
	t.Helper()
	y := terminal.New(s.way(link.Secret), link.Guest.SessionId, terminal.Guest)
	if err := y.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaits(t, y, "is recorded")
	return y
}

// gone waits until a guest is sent away, and says with which code.
func (s *shells) gone(t *testing.T, y *terminal.Typist) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := y.AwaitLost(ctx); err != nil {
		t.Fatalf("the guest is still there: %v", err)
	}
	over, _ := y.Over()
	if over == nil {
		return ""
	}
	return over.Code
}

// guestActs waits until the audit log has as many entries of guests about a session, and says which, oldest first: what was done, by
// whom, and why.
func (s *shells) guestActs(t *testing.T, session string, n int) []string {
	t.Helper()
	for tick := time.Tick(20 * time.Millisecond); ; {
		var out []string
		for _, e := range do(t, s.as(s.running.key).audit.ListEntries, &v1.ListEntriesRequest{Target: session}).Items {
			if act, ok := strings.CutPrefix(e.Action, "shell_guests."); ok {
				out = append(out, strings.Join(slices.DeleteFunc([]string{act, e.Outcome, e.Actor.GetKind(), e.Reason}, func(s string) bool { return s == "" || s == "done" }), " "))
			}
		}
		slices.Reverse(out)
		if len(out) >= n {
			return out
		}
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatalf("the audit log has %q", out)
		}
	}
}

func (s *shells) watchers(t *testing.T) float64 {
	t.Helper()
	families, err := s.options.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "loopback_shell_guests" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("guests are not counted")
	return 0
}

// helper is somebody who may invite guests.
func (s *shells) helper(t *testing.T) (account *v1.ServiceAccount, binding *v1.Binding, key string) {
	t.Helper()
	return s.holder(t, "helper", &v1.CreateBindingRequest{Role: "admin"})
}

// A guest sees the terminal of one session; those in it see the guest; nothing of what is said about the session is shown to them, and
// nothing else is open to their link.
func TestAGuestSeesOneTerminalAndNothingElse(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	account, _, key := s.helper(t)
	link := s.invites(t, key, session)
	if g := link.Guest; g.State != "waiting" || g.PrincipalName != account.Name || g.Reason != "case 4711" || g.HostId != s.host || time.Until(g.ExpiresAt.AsTime()).Round(time.Minute) != 30*time.Minute {
		t.Errorf("invited is %v", g)
	}
	if want := s.options.Settings.PublicURL + "/guest/" + session + "#" + link.Secret; link.Url != want || !strings.HasPrefix(link.Secret, "lbg_") {
		t.Errorf("the link is %q, want %q", link.Url, want)
	}
	jane := s.looks(t, link)
	if h := jane.Hello(); h.Session != session || h.Host == "" || h.Guest != "Vendor, Jane" || h.InvitedBy != "helper" || !h.Until.Equal(link.Guest.ExpiresAt.AsTime().Truncate(time.Microsecond)) || h.User+h.Who != "" {
		t.Errorf("the guest is told %+v", h)
	}
	y.Type("echo a$((40+2))b\n")
	awaits(t, jane, "a42b")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := "guest Vendor, Jane, invited by helper, "
	if err := y.AwaitMark(ctx, told+"watches"); err != nil {
		t.Fatal(err)
	}
	if got := do(t, s.guests(key).ListGuests, &v1.ListGuestsRequest{Session: session}).Items; len(got) != 1 || got[0].State != "watching" || got[0].Address != "127.0.0.1" || !got[0].JoinedAt.IsValid() {
		t.Errorf("listed are %v", got)
	}
	if n := s.watchers(t); n != 1 {
		t.Errorf("%v guests are counted", n)
	}
	// The link is good for nothing else.
	for name, code := range map[string]string{
		"the API":         refused(t, s.service(link.Secret).ListShellSessions, &v1.ListShellSessionsRequest{}),
		"who one is":      refused(t, s.as(link.Secret).session.WhoAmI, &v1.WhoAmIRequest{}),
		"inviting others": refused(t, s.guests(link.Secret).InviteGuest, &v1.InviteGuestRequest{Session: session, Name: "x"}),
	} {
		if code != "api_key_invalid" {
			t.Errorf("%s: got %q", name, code)
		}
	}
	for _, mode := range []string{"own", "join", "watch"} {
		if err := terminal.New(s.way(link.Secret), session, mode).Connect(t.Context()); err == nil {
			t.Errorf("taking part by it as %q is let in", mode)
		}
	}
	jane.Cut()
	if err := y.AwaitMark(ctx, told+"left"); err != nil {
		t.Fatal(err)
	}
	again := s.looks(t, link)
	y.Type("exit\n")
	if code := s.gone(t, again); code != "session_ended" {
		t.Errorf("at the end the guest was told %q", code)
	}
	if over, exit := again.Over(); over.Message != "the session has ended" || exit != nil || len(jane.Marks())+len(again.Marks()) != 0 {
		t.Errorf("the guest was told %v, %v, %q, %q", over, exit, jane.Marks(), again.Marks())
	}
	if end := s.ends(t, session); end.Verdict != "agreed" {
		t.Errorf("the recordings: %v", end)
	}
	want := []string{"invite api_key case 4711", "join guest", "leave guest", "join guest", "leave guest session_ended"}
	if got := s.guestActs(t, session, len(want)); !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
	if n := s.watchers(t); n != 0 {
		t.Errorf("%v guests are counted after all left", n)
	}
	if code := refused(t, s.guests(key).InviteGuest, &v1.InviteGuestRequest{Session: session, Name: "x"}); code != "session_ended" {
		t.Errorf("inviting to what has ended: got %q", code)
	}
	if err := terminal.New(s.way(link.Secret), session, terminal.Guest).Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "the session has ended") {
		t.Errorf("coming again after the end: got %v", err)
	}
}

// Whatever takes a guest's seeing away does so while they look.
func TestAGuestIsGoneWithWhatLetThemIn(t *testing.T) {
	for _, c := range []struct {
		name, code string
		end        func(t *testing.T, s *shells, account *v1.ServiceAccount, binding *v1.Binding, link *v1.InviteGuestResponse)
	}{
		{"the link is taken back", "guest_revoked", func(t *testing.T, s *shells, _ *v1.ServiceAccount, _ *v1.Binding, link *v1.InviteGuestResponse) {
			if g := do(t, s.guests(s.running.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: link.Guest.Id}); g.State != "revoked" {
				t.Errorf("got %v", g)
			}
		}},
		{"by whose session it is", "guest_revoked", func(t *testing.T, s *shells, _ *v1.ServiceAccount, _ *v1.Binding, link *v1.InviteGuestResponse) {
			admin := s.as(s.running.key)
			do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "gatekeeper", Permissions: []string{"shell_guests.read", "shell_guests.revoke"}})
			elsewhere := do(t, admin.spaces.CreateWorkspace, &v1.CreateWorkspaceRequest{Name: "elsewhere", Project: "default"})
			if code := refused(t, s.guests(s.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: link.Guest.Id}); code != "permission_denied" {
				t.Errorf("without the permission anywhere: got %q", code)
			}
			do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: s.account, Role: "gatekeeper", Workspace: elsewhere.Id})
			do(t, s.guests(s.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: link.Guest.Id})
		}},
		{"the inviter's role is", "guest_unheld", func(t *testing.T, s *shells, _ *v1.ServiceAccount, b *v1.Binding, _ *v1.InviteGuestResponse) {
			do(t, s.as(s.running.key).bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: b.Id})
		}},
		{"the inviter may not watch there any more", "guest_unheld", func(t *testing.T, s *shells, a *v1.ServiceAccount, _ *v1.Binding, _ *v1.InviteGuestResponse) {
			admin := s.as(s.running.key)
			do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "watcher", Permissions: []string{"shell_sessions.watch"}})
			do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: a.Id, Role: "watcher", Deny: true, Workspace: "default"})
		}},
		{"the inviter is locked", "guest_unheld", func(t *testing.T, s *shells, a *v1.ServiceAccount, _ *v1.Binding, _ *v1.InviteGuestResponse) {
			do(t, s.locking(s.running.key).CreateLock, &v1.CreateLockRequest{ServiceAccount: a.Id, Reason: "stolen"})
		}},
		{"the inviter is deleted", "guest_unheld", func(t *testing.T, s *shells, a *v1.ServiceAccount, _ *v1.Binding, _ *v1.InviteGuestResponse) {
			do(t, s.as(s.running.key).accounts.DeleteServiceAccount, &v1.DeleteServiceAccountRequest{ServiceAccount: a.Id})
		}},
		{"the inviter's key is revoked", "guest_unheld", func(t *testing.T, s *shells, a *v1.ServiceAccount, _ *v1.Binding, _ *v1.InviteGuestResponse) {
			admin := s.as(s.running.key)
			for _, k := range do(t, admin.keys.ListApiKeys, &v1.ListApiKeysRequest{}).Items {
				if k.Name == "helper" {
					do(t, admin.keys.RevokeApiKey, &v1.RevokeApiKeyRequest{ApiKey: k.Id})
				}
			}
		}},
		{"the host is locked", "session_ended", func(t *testing.T, s *shells, _ *v1.ServiceAccount, _ *v1.Binding, _ *v1.InviteGuestResponse) {
			do(t, s.locking(s.running.key).CreateLock, &v1.CreateLockRequest{Host: s.host, Reason: "forensics"})
		}},
		{"the session is ended", "session_ended", func(t *testing.T, s *shells, _ *v1.ServiceAccount, _ *v1.Binding, link *v1.InviteGuestResponse) {
			do(t, s.service(s.running.key).KillShellSession, &v1.KillShellSessionRequest{Session: link.Guest.SessionId, Comment: "enough"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t).withShells(t)
			session := s.open(t, s.key)
			s.types(t, s.key, session)
			account, binding, key := s.helper(t)
			link := s.invites(t, key, session)
			jane := s.looks(t, link)
			began := time.Now()
			c.end(t, s, account, binding, link)
			if code := s.gone(t, jane); code != c.code {
				t.Errorf("the guest was told %q, want %q", code, c.code)
			}
			t.Logf("gone after %v", time.Since(began).Round(time.Millisecond))
			if err := terminal.New(s.way(link.Secret), session, terminal.Guest).Connect(t.Context()); err == nil {
				t.Error("the guest is let in again")
			}
			s.guestActs(t, session, 3)
			if acts := s.guestActs(t, session, 3); !slices.Contains(acts, "leave guest "+c.code) {
				t.Errorf("the audit log has %q", acts)
			}
		})
	}
}

// ending has a link's time be over soon: none can be made for less than a minute.
func (s *shells) ending(t *testing.T, link *v1.InviteGuestResponse, left time.Duration) {
	t.Helper()
	if err := s.db.Observe(t.Context(), func(tx *storage.Tx) error {
		g, err := tx.Guest(t.Context(), link.Guest.Id)
		if err == nil {
			g.ExpiresAt = time.Now().Add(left)
			_, err = tx.PutGuest(t.Context(), g)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAGuestIsGoneWhenTheTimeIsOver(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	s.types(t, s.key, session)
	link := s.invites(t, s.running.key, session)
	s.ending(t, link, 3*time.Second)
	jane := s.looks(t, link)
	if code := s.gone(t, jane); code != "guest_expired" {
		t.Errorf("the guest was told %q", code)
	}
	if got := do(t, s.guests(s.running.key).ListGuests, &v1.ListGuestsRequest{Session: session}).Items; got[0].State != "expired" {
		t.Errorf("listed are %v", got)
	}
}

// Who says anything but what they have seen is sent away, and nothing comes of it.
func TestAGuestWhoActsIsSentAway(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	y.Resize(80, 24)
	link := s.invites(t, s.running.key, session)
	for name, act := range map[string]func(*terminal.Typist){
		"types":   func(j *terminal.Typist) { j.Type("echo typed-by-a-guest\n") },
		"resizes": func(j *terminal.Typist) { j.Resize(11, 7) },
		"kills":   func(j *terminal.Typist) { j.Kill() },
	} {
		jane := s.looks(t, link)
		act(jane)
		if code := s.gone(t, jane); code != "guest_read_only" {
			t.Errorf("%s: got %q", name, code)
		}
	}
	y.Type("echo size-$(stty size | tr ' ' x); exit 4\n")
	awaits(t, y, "size-24x80")
	if end := s.ends(t, session); end.ExitStatus != 4 || strings.Contains(y.Seen(), "typed-by-a-guest") {
		t.Errorf("got %v; shown was %q", end, y.Seen())
	}
	if acts := s.guestActs(t, session, 7); !slices.Contains(acts, "leave guest guest_read_only") {
		t.Errorf("the audit log has %q", acts)
	}
}

func TestAGuestWhoNeverReadsHoldsNobodyBack(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	link := s.invites(t, s.running.key, session)
	deaf := terminal.New(s.way(link.Secret), session, terminal.Guest)
	deaf.Deaf = true
	if err := deaf.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.Type("stty -echo; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo done-$((40+2))\n")
	awaits(t, y, "done-42")
	// And nobody waits for them when they have to go.
	do(t, s.guests(s.running.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: link.Guest.Id})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := y.AwaitMark(ctx, "guest Vendor, Jane, invited by administrator, left"); err != nil {
		t.Fatal(err)
	}
	y.Type("exit\n")
	if end := s.ends(t, session); end.Verdict != "agreed" {
		t.Errorf("got %v", end)
	}
	deaf.Cut()
}

// asks is an ordinary request for a guest's WebSocket, which says why there would be none.
func (s *shells) asks(t *testing.T, session, secret string, header http.Header) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/guest/v1/"+session, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	for name, values := range header {
		r.Header[name] = values
	}
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

func TestALinkThatIsNotOneLetsNobodyIn(t *testing.T) {
	s := serve(t, "--source-rate", "10").withShells(t)
	session, other := s.open(t, s.key), s.open(t, s.key)
	s.types(t, s.key, session)
	s.types(t, s.key, other)
	link, late, back := s.invites(t, s.running.key, session), s.invites(t, s.running.key, session), s.invites(t, s.running.key, session)
	s.ending(t, late, -time.Second)
	do(t, s.guests(s.running.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: back.Guest.Id})
	for name, c := range map[string]struct {
		session, secret string
		header          http.Header
		status          int
		code            string
	}{
		"one that works":      {session, link.Secret, nil, http.StatusUpgradeRequired, "upgrade_required"},
		"as a browser has it": {session, "", http.Header{"Authorization": nil, "Sec-Websocket-Protocol": {"loopback.guest.v1, " + link.Secret}}, http.StatusUpgradeRequired, "upgrade_required"},
		"of another session":  {other, link.Secret, nil, http.StatusUnauthorized, "guest_invalid"},
		"with a wrong secret": {session, guest.NewSecret(link.Guest.Id), nil, http.StatusUnauthorized, "guest_invalid"},
		"of nobody":           {session, guest.NewSecret("gst_" + strings.TrimPrefix(session, "ses_")), nil, http.StatusUnauthorized, "guest_invalid"},
		"no link":             {session, "lbg_x", nil, http.StatusUnauthorized, "guest_invalid"},
		"an API key":          {session, s.running.key, nil, http.StatusUnauthorized, "guest_invalid"},
		"one that is over":    {session, late.Secret, nil, http.StatusUnauthorized, "guest_expired"},
		"one taken back":      {session, back.Secret, nil, http.StatusUnauthorized, "guest_revoked"},
		"from another site":   {session, link.Secret, http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden, "cross_site"},
	} {
		if status, code := s.asks(t, c.session, c.secret, c.header); status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", name, status, code, c.status, c.code)
		}
	}
	evil := s.way(link.Secret)
	evil.Header = http.Header{"Origin": {"https://evil.example"}}
	if err := terminal.New(evil, session, terminal.Guest).Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "another site") {
		t.Errorf("a WebSocket from another site: got %v", err)
	}
	refusals := map[string]int{}
	for _, act := range s.guestActs(t, session, 7) {
		refusals[act]++
	}
	for _, want := range []string{"join refused anonymous guest_invalid", "join refused anonymous guest_expired", "join refused anonymous guest_revoked"} {
		if refusals[want] != 1 {
			t.Errorf("the audit log has %v, want %q", refusals, want)
		}
	}
	if n := s.counted(t, "loopback_shell_guests_refused_total", "guest_expired"); n != 1 {
		t.Errorf("%v were refused as expired", n)
	}
	// Guesses are paid for with the source's credit.
	for range 200 {
		if status, code := s.asks(t, session, guest.NewSecret(link.Guest.Id), nil); code == "rate_limited" {
			if status != http.StatusTooManyRequests {
				t.Errorf("got status %d", status)
			}
			return
		}
	}
	t.Error("one may guess without end")
}

func TestWhoMayInviteGuestsAndHowMany(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	admin := s.as(s.running.key)
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "inviter", Permissions: []string{"shell_guests.invite", "shell_sessions.read"}})
	_, _, operator := s.holder(t, "operator", &v1.CreateBindingRequest{Role: "operator"})
	_, _, auditor := s.holder(t, "auditor", &v1.CreateBindingRequest{Role: "auditor"})
	_, _, blind := s.holder(t, "blind", &v1.CreateBindingRequest{Role: "inviter"})
	long := durationpb.New(9 * time.Hour)
	for name, c := range map[string]struct {
		key, code string
		q         *v1.InviteGuestRequest
	}{
		"an operator":                {operator, "permission_denied", &v1.InviteGuestRequest{Session: session, Name: "x"}},
		"an auditor":                 {auditor, "permission_denied", &v1.InviteGuestRequest{Session: session, Name: "x"}},
		"who may not watch":          {blind, "permission_denied", &v1.InviteGuestRequest{Session: session, Name: "x"}},
		"whose session it is":        {s.key, "permission_denied", &v1.InviteGuestRequest{Session: session, Name: "x"}},
		"without a name":             {s.running.key, "guest_unfit", &v1.InviteGuestRequest{Session: session, Name: " "}},
		"with a name that is two":    {s.running.key, "guest_unfit", &v1.InviteGuestRequest{Session: session, Name: "a\nb"}},
		"with one that plays tricks": {s.running.key, "guest_unfit", &v1.InviteGuestRequest{Session: session, Name: "a\u202eb"}},
		"with a long one":            {s.running.key, "guest_unfit", &v1.InviteGuestRequest{Session: session, Name: strings.Repeat("x", guest.MaxName+1)}},
		"for long":                   {s.running.key, "guest_unfit", &v1.InviteGuestRequest{Session: session, Name: "x", Ttl: long}},
		"to nothing":                 {s.running.key, "not_found", &v1.InviteGuestRequest{Session: "ses_none", Name: "x"}},
	} {
		if code := refused(t, s.guests(c.key).InviteGuest, c.q); code != c.code {
			t.Errorf("%s: got %q, want %q", name, code, c.code)
		}
	}
	// It is over with the session at the latest.
	far := do(t, s.guests(s.running.key).InviteGuest, &v1.InviteGuestRequest{Session: session, Name: "x", Ttl: durationpb.New(8 * time.Hour)}).Guest
	if left := time.Until(far.ExpiresAt.AsTime()); left > noun.Longest || left < noun.Longest-time.Minute {
		t.Errorf("a link for eight hours works for %v", left)
	}
	for range guest.MaxPerSession - 1 {
		s.invites(t, s.running.key, session)
	}
	if code := refused(t, s.guests(s.running.key).InviteGuest, &v1.InviteGuestRequest{Session: session, Name: "x"}); code != "guest_limit" {
		t.Errorf("one more: got %q", code)
	}
	do(t, s.guests(s.running.key).RevokeGuest, &v1.RevokeGuestRequest{Guest: far.Id})
	s.invites(t, s.running.key, session)
	if got := do(t, s.guests(auditor).ListGuests, &v1.ListGuestsRequest{Session: session}).Items; len(got) != guest.MaxPerSession+1 {
		t.Errorf("an auditor sees %d guests", len(got))
	}
	if code := refused(t, s.guests(operator).ListGuests, &v1.ListGuestsRequest{Session: session}); code != "permission_denied" {
		t.Errorf("an operator lists: got %q", code)
	}
}

// A link is in one place at a time: whoever has it twice finds out.
func TestALinkThatIsOpenedTwiceGoesOnInOnePlace(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	link := s.invites(t, s.running.key, session)
	first := s.looks(t, link)
	second := s.looks(t, link)
	if code := s.gone(t, first); code != "guest_elsewhere" {
		t.Errorf("the first was told %q", code)
	}
	y.Type("echo a$((40+2))b\n")
	awaits(t, second, "a42b")
	want := []string{"invite api_key case 4711", "join guest", "leave guest guest_elsewhere", "join guest"}
	if got := s.guestActs(t, session, len(want)); !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
}

// What was shown long before a guest came is not theirs to see, whatever they ask for.
func TestAGuestDoesNotGoBack(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	y.Resize(91, 33)
	y.Type("stty -echo; echo from-be$((1-1))fore; head -c 200000 /dev/zero | tr '\\0' x; echo; echo done-$((40+2))\n")
	awaits(t, y, "done-42")
	jane := terminal.New(s.way(s.invites(t, s.running.key, session).Secret), session, terminal.Guest) // who asks for all of it
	if err := jane.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaits(t, jane, "done-42")
	if seen := jane.Seen(); strings.Contains(seen, "be0fore") || len(seen) > 64<<10 {
		t.Errorf("the guest saw %d bytes, from %q on", len(seen), seen[:min(100, len(seen))])
	}
	watcher := terminal.New(s.way(s.running.key), session, "watch") // who begins near the end
	watcher.From(-1)
	if err := watcher.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaits(t, watcher, "done-42")
	for who, y := range map[string]*terminal.Typist{"guest": jane, "watcher": watcher} {
		if size := y.Size(); size != "91x33" {
			t.Errorf("the %s's terminal is %q", who, size)
		}
	}
}
