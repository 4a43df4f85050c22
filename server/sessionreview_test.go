package server

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

func (r *running) looking(key string) loopbackv1connect.SessionReviewServiceClient {
	return loopbackv1connect.NewSessionReviewServiceClient(&http.Client{Transport: bearer{key, nil, r.client.Transport}}, r.url+"/api")
}

// shellOf makes a session that somebody had by a binding, with a real recording of what was shown.
func (r *running) shellOf(t *testing.T, user *v1.User, binding, host string, ended time.Time, shown ...string) shell.Session {
	t.Helper()
	s := shell.Session{Meta: tenant.Meta{ID: id.New("ses", ended), CreatedAt: ended.Add(-10 * time.Minute)}, Scope: r.workspace(t), HostID: "hst_" + host, HostName: host, User: "root",
		Principal: user.Id, Who: user.Name, Reason: "replication is stuck", Ticket: "OPS-42", Rule: binding, State: shell.Ended, EndedAt: ended, Replica: r.replica, Verdict: shell.Agreed, Differs: -1}
	s.Name = s.ID
	seal, err := r.keys.Seal()
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(seal)
	if err != nil {
		t.Fatal(err)
	}
	keys := recording.NewKeyring(recording.NewSecret())
	w, err := recording.Create(filepath.Join(r.options.Settings.DataDir, "recordings", s.ID), s.ID, keys)
	if err != nil {
		t.Fatal(err)
	}
	header, _ := json.Marshal(recording.Header{Session: s.ID, Host: host, Cols: 80, Rows: 24})
	events := []recording.Event{{Kind: recording.Begin, Data: header}}
	for i, text := range shown {
		events = append(events, recording.Event{At: time.Duration(i+1) * time.Second, Kind: recording.Output, Data: []byte(text)})
	}
	for _, e := range events {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if s.Head, err = w.End(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.Sealed = box.Seal(s.ID, string(keys.Marshal()))
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutShellSession(t.Context(), s); return err }); err != nil {
		t.Fatal(err)
	}
	return s
}

// workspace is the default one's scope.
func (r *running) workspace(t *testing.T) access.Scope {
	t.Helper()
	w := do(t, r.as(r.key).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{}).Items[0]
	return access.Scope{Organisation: w.OrganisationId, Project: w.ProjectId, Workspace: w.Id}
}

func TestSessionsAreLookedAtBySomebodyElse(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	eve, eveKey := r.person(t, &v1.CreateUserRequest{Name: "eve", Email: "eve@example.com"}, "admin")
	_, twin := r.person(t, &v1.CreateUserRequest{Name: "eve-2", Email: "Eve@Example.com"}, "admin")
	joined, joinedKey := r.person(t, &v1.CreateUserRequest{Name: "joined"}, "admin")
	_, ada := r.person(t, &v1.CreateUserRequest{Name: "ada"}, "admin")
	_, bob := r.person(t, &v1.CreateUserRequest{Name: "bob"}, "member")
	_, _, robot := r.holder(t, "robot", &v1.CreateBindingRequest{Role: "admin"})
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "debugger", Permissions: []string{"hosts.read"}})
	gives := do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: eve.Id, Role: "debugger"})
	other := do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: eve.Id, Role: "member"})

	for want, q := range map[string]*v1.SetSessionReviewPolicyRequest{
		"not_found":                     {ReviewRoles: []string{"nobody"}},
		"session_review_policy_invalid": {SharePercent: 101},
	} {
		if code := refused(t, r.looking(r.key).SetSessionReviewPolicy, q); code != want {
			t.Errorf("got %q, want %q", code, want)
		}
	}
	if code := refused(t, r.looking(bob).SetSessionReviewPolicy, &v1.SetSessionReviewPolicyRequest{}); code != "permission_denied" {
		t.Errorf("a member sets what is looked at: got %q", code)
	}
	do(t, r.looking(r.key).SetSessionReviewPolicy, &v1.SetSessionReviewPolicyRequest{ReviewRoles: []string{"debugger"}})
	now := time.Now()
	mine := r.shellOf(t, eve, gives.Id, "db-7", now.Add(time.Millisecond), "root@db-7:~# systemctl restart postgres\r\n", "root@db-7:~# systemctl restart redis\r\nroot@db-7:~# ls\r\n")
	r.shellOf(t, eve, other.Id, "web-1", now.Add(2*time.Millisecond), "eve@web-1:/srv$ /usr/bin/systemctl restart nginx --no-block\r\n")
	gone := r.shellOf(t, eve, "bnd_of_long_ago", "web-2", now.Add(3*time.Millisecond))
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		e := audit.Of(access.Actor{Kind: access.SignIn, ID: "sgn_1", Principal: joined.Id}, shell.Join, mine.Scope, mine.ID, mine.HostName)
		return tx.Audit(t.Context(), e)
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once each, however often it is looked
		if err := r.sessionReviews.Sweep(t.Context(), now.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	list := do(t, r.looking(ada).ListSessionReviews, &v1.ListSessionReviewsRequest{States: []string{"open"}}).Items
	var got []string
	for _, one := range list {
		got = append(got, one.SessionId+" "+one.Cause)
	}
	if want := []string{gone.ID + " the role is not known any more", mine.ID + " role debugger"}; !slices.Equal(got, want) {
		t.Fatalf("in the queue are %v, want %v", got, want)
	}
	for name, c := range map[string]struct{ key, want string }{
		"who opened it": {eveKey, "session_review_own"}, "their other account": {twin, "session_review_own"}, "who joined": {joinedKey, "session_review_own"},
		"a machine": {robot, "session_reviewer_not_a_person"}, "who may not": {bob, "permission_denied"},
	} {
		if code := refused(t, r.looking(c.key).AnswerSessionReview, &v1.AnswerSessionReviewRequest{SessionReview: mine.ID, Verdict: "fine"}); code != c.want {
			t.Errorf("%s: got %q, want %q", name, code, c.want)
		}
	}
	for _, q := range []*v1.AnswerSessionReviewRequest{{SessionReview: mine.ID, Verdict: "perhaps"}, {SessionReview: mine.ID, Verdict: "violation"}, {Verdict: "fine"}} {
		if code := refused(t, r.looking(ada).AnswerSessionReview, q); code != "request_invalid" {
			t.Errorf("%v: got %q", q, code)
		}
	}
	v := do(t, r.looking(ada).AnswerSessionReview, &v1.AnswerSessionReviewRequest{SessionReview: mine.ID, Verdict: "follow_up", Note: "make it a saved command"})
	if v.State != "done" || v.ReviewerName != "ada" || v.Verdict != "follow_up" || v.Overdue {
		t.Errorf("got %v", v)
	}
	if code := refused(t, r.looking(ada).AnswerSessionReview, &v1.AnswerSessionReviewRequest{SessionReview: mine.ID, Verdict: "fine"}); code != "session_review_done" {
		t.Errorf("a second verdict: got %q", code)
	}
	e := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Action: "session_reviews.answer"}).Items
	if len(e) != 1 || e[0].Reason != "make it a saved command" {
		t.Errorf("the audit log has %v", e)
	}
	// Nobody looked at the other in time.
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		late, err := tx.SessionReview(t.Context(), sessionreview.ID(gone.ID))
		if err == nil {
			late.DueAt = time.Now().Add(-time.Second)
			_, err = tx.PutSessionReview(t.Context(), late)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if late := do(t, r.looking(ada).ListSessionReviews, &v1.ListSessionReviewsRequest{Overdue: true}).Items; len(late) != 1 || !late[0].Overdue || late[0].SessionId != gone.ID {
		t.Errorf("overdue are %v", late)
	}
	if open, overdue, err := r.sessionReviews.Count(t.Context()); err != nil || open != 1 || overdue != 1 {
		t.Errorf("%d open, %d overdue, %v", open, overdue, err)
	}

	report := do(t, r.looking(ada).ReportSessions, &v1.ReportSessionsRequest{})
	if report.Sessions != 3 || len(report.People) != 1 || report.People[0].Hosts != 3 || report.People[0].Reasons[0].Text != "OPS-42: replication is stuck" || report.People[0].Reasons[0].Times != 3 {
		t.Errorf("got %v", report)
	}
	if len(report.Commands) != 1 || report.Commands[0].Command != "systemctl restart …" || report.Commands[0].Times != 2 || report.Commands[0].Sessions != 1 {
		t.Errorf("what recurs is %v", report.Commands)
	}
	if nothing := do(t, r.looking(ada).ReportSessions, &v1.ReportSessionsRequest{Until: in(-24 * time.Hour)}); nothing.Sessions != 0 || len(nothing.Commands) != 0 {
		t.Errorf("of the day before: %v", nothing)
	}
	if code := refused(t, r.looking(bob).ReportSessions, &v1.ReportSessionsRequest{}); code != "permission_denied" {
		t.Errorf("a member reads the report: got %q", code)
	}
}

func TestAMonthIsDrawnByALotThatAnybodyCanDrawAgain(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	do(t, r.looking(r.key).SetSessionReviewPolicy, &v1.SetSessionReviewPolicyRequest{SharePercent: 10})
	// A month that is over, which the control plane committed to when it began.
	first, _, err := sessionreview.Bounds(sessionreview.MonthOf(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	month := sessionreview.MonthOf(first.Add(-time.Hour))
	key := [32]byte{1, 2, 3}
	seal, err := r.keys.Seal()
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(seal)
	if err != nil {
		t.Fatal(err)
	}
	var population []string
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		return tx.PutSessionDraw(t.Context(), sessionreview.Month{ID: month, Committed: sessionreview.Commitment(key), Sealed: box.Seal("draw "+month, string(key[:]))})
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 21 {
		population = append(population, r.shellOf(t, eve, "bnd_1", fmt.Sprint("web-", i), first.Add(-time.Duration(i+1)*time.Hour)).ID)
	}
	await := time.Now().Add(30 * time.Second)
	for log, err := r.ledger.Current(t.Context()); err != nil || log.Signed != log.Size || log.Size == 0; log, err = r.ledger.Current(t.Context()) {
		if time.Now().After(await) {
			t.Fatal("the audit log is not signed")
		}
		if err := r.ledger.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.sessionReviews.Sweep(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	entries := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Action: "session_reviews.draw"}).Items
	if len(entries) != 1 {
		t.Fatalf("the audit log has %d draws", len(entries))
	}
	var said struct {
		SecretSha256, Secret, RootHash string
		Places                         []struct {
			Policy       string
			SharePercent int
			Sessions     int
			Drawn        []string
		}
	}
	if text, err := entries[0].After.MarshalJSON(); err != nil || json.Unmarshal(text, &said) != nil {
		t.Fatalf("%v: %s", err, text)
	}
	// Anybody can draw again.
	var revealed, root [32]byte
	if _, err := hex.Decode(revealed[:], []byte(said.Secret)); err != nil {
		t.Fatal(err)
	}
	if _, err := hex.Decode(root[:], []byte(said.RootHash)); err != nil {
		t.Fatal(err)
	}
	commitment := sessionreview.Commitment(revealed)
	if hex.EncodeToString(commitment[:]) != said.SecretSha256 {
		t.Errorf("the secret is not the one that was committed to")
	}
	want := sessionreview.Drawn(sessionreview.Seed(month, revealed, root), population, 10)
	if len(said.Places) != 1 || said.Places[0].Sessions != 21 || len(want) != 3 || !slices.Equal(said.Places[0].Drawn, want) {
		t.Errorf("drawn are %+v, want %v", said.Places, want)
	}
	var queued []string
	for _, one := range do(t, r.looking(r.key).ListSessionReviews, &v1.ListSessionReviewsRequest{}).Items {
		if queued = append(queued, one.SessionId); !strings.HasPrefix(one.Cause, "drawn for "+month) {
			t.Errorf("%s is there because of %s", one.SessionId, one.Cause)
		}
	}
	slices.Sort(queued)
	slices.Sort(want)
	if !slices.Equal(queued, want) {
		t.Errorf("in the queue are %v, want %v", queued, want)
	}
	if err := r.sessionReviews.Sweep(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if again := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Action: "session_reviews.draw"}).Items; len(again) != 1 {
		t.Errorf("drawn %d times", len(again))
	}
	if now := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Action: "session_reviews.commit"}).Items; len(now) != 1 || strings.Contains(now[0].After.String(), "\"secret\"") {
		t.Errorf("this month's commitment: %v", now)
	}
}
