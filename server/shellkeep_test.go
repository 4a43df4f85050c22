package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sessionreview"
	noun "github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/terminal"
)

func (r *running) shellsAs(key string) loopbackv1connect.ShellServiceClient {
	return loopbackv1connect.NewShellServiceClient(&http.Client{Transport: bearer{key, nil, r.client.Transport}}, r.url+"/api")
}

// forgetter is a key of somebody who may delete recordings for a while.
func (r *running) forgetter(t *testing.T, name string) (account, key string) {
	t.Helper()
	admin := r.as(r.key)
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: name, Permissions: []string{"shell_sessions.forget", "shell_sessions.*", "workspaces.read"}})
	who := do(t, admin.accounts.CreateServiceAccount, &v1.CreateServiceAccountRequest{Name: name})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: who.Id, Role: name, NotAfter: in(time.Hour)})
	return who.Id, do(t, admin.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: name, ServiceAccount: who.Id, Permissions: []string{"*", "shell_sessions.forget"}}).Secret
}

func (r *running) recording(session string) string {
	return filepath.Join(r.options.Settings.DataDir, "recordings", session)
}

func held(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := recording.Held(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *running) tidy(t *testing.T) {
	t.Helper()
	if err := r.shells.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *running) row(t *testing.T, session string) noun.Session {
	t.Helper()
	s, err := r.db.View().ShellSession(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *running) change(t *testing.T, session string, change func(*noun.Session)) {
	t.Helper()
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		s, err := tx.ShellSession(t.Context(), session)
		if err == nil {
			change(&s)
			_, err = tx.PutShellSession(t.Context(), s)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A secret was shown: its recording goes, here and on the host, and what it came to is proved as before.
func TestARecordingIsForgottenOnPurpose(t *testing.T) {
	r := serve(t)
	m := &terminal.Machine{Dir: t.TempDir()}
	s := r.withHost(t, m.Begin)
	t.Cleanup(m.Close)
	_, key := r.forgetter(t, "forgetter")
	mine := s.shellsAs(key)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	if got := refused(t, mine.ForgetShellSession, &v1.ForgetShellSessionRequest{Session: session, Reason: "leak"}); got != "session_running" {
		t.Errorf("while it runs: %q", got)
	}
	y.Type("echo hunter$((1+1)); exit\n")
	awaits(t, y, "hunter2")
	end := s.ends(t, session)
	for name, c := range map[string]struct{ key, reason, want string }{
		"who holds all but tier 0": {r.key, "leak", "permission_denied"}, "without a reason": {key, " ", "request_invalid"},
	} {
		if got := refused(t, s.shellsAs(c.key).ForgetShellSession, &v1.ForgetShellSessionRequest{Session: session, Reason: c.reason}); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	do(t, mine.HoldShellSession, &v1.HoldShellSessionRequest{Session: session, Reason: "case 17"})
	if got := refused(t, mine.ForgetShellSession, &v1.ForgetShellSessionRequest{Session: session, Reason: "leak"}); got != "recording_held" {
		t.Errorf("while it is on hold: %q", got)
	}
	if got := do(t, mine.ReleaseShellSession, &v1.ReleaseShellSessionRequest{Session: session}); got.Hold != nil {
		t.Errorf("released: %v", got)
	}
	dirs := []string{r.recording(session), m.Recording(session)}
	if held(t, dirs[0]) == 0 || held(t, dirs[1]) == 0 {
		t.Fatal("there is no recording to begin with")
	}
	got := do(t, mine.ForgetShellSession, &v1.ForgetShellSessionRequest{Session: session, Reason: "shows a password; OPS-77"})
	if d := got.Deletion; d == nil || d.PrincipalName != "forgetter" || d.Reason != "shows a password; OPS-77" || got.Root != end.Root || got.HostRoot != end.HostRoot || got.Verdict != "agreed" {
		t.Errorf("got %v", got)
	}
	row := r.row(t, session)
	if len(row.Sealed) != 0 || held(t, dirs[0]) != 0 {
		t.Errorf("%d bytes of its keys, and %d of it are left", len(row.Sealed), held(t, dirs[0]))
	}
	r.tidy(t) // or the worker, which was woken
	if now := do(t, mine.GetShellSession, &v1.GetShellSessionRequest{Session: session}); held(t, dirs[1]) != 0 || now.Deletion.HostAt == nil {
		t.Errorf("the host has %d bytes of it; %v", held(t, dirs[1]), now.Deletion)
	}
	for _, dir := range dirs {
		proof, err := recording.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if root := proof.Head().Root; proof.Verify() != nil || hex.EncodeToString(root[:]) != end.Root {
			t.Errorf("%s proves %x, want %s", dir, root, end.Root)
		}
		_ = proof.Close()
	}
	cast, err := mine.ReplayShellSession(t.Context(), connect.NewRequest(&v1.ReplayShellSessionRequest{Session: session}))
	if err == nil {
		for cast.Receive() {
		}
		err = cast.Err()
	}
	if codeOf(err) != "recording_deleted" || !strings.Contains(err.Error(), "forgetter: shows a password") {
		t.Errorf("replayed: %v", err)
	}
	if got := refused(t, mine.ForgetShellSession, &v1.ForgetShellSessionRequest{Session: session, Reason: "again"}); got != "recording_deleted" {
		t.Errorf("again: %q", got)
	}
	if got := refused(t, mine.HoldShellSession, &v1.HoldShellSessionRequest{Session: session, Reason: "late"}); got != "recording_deleted" {
		t.Errorf("put on hold: %q", got)
	}
	if got := s.acts(t, session); got != "open end hold release forget" {
		t.Errorf("the audit log has %q", got)
	}
	e := do(t, s.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: session, Action: "shell_sessions.forget"}).Items[0]
	if after, _ := e.After.MarshalJSON(); e.Reason != "shows a password; OPS-77" || !strings.Contains(string(after), `"root"`) || !strings.Contains(string(after), `"deleted":true`) {
		t.Errorf("the entry says %s because of %q", after, e.Reason)
	}
}

// Who signed in shows a passkey first; and nobody is rid of what they did before somebody else looked.
func TestWhoMayForget(t *testing.T) {
	r := serve(t)
	account, key := r.forgetter(t, "forgetter")
	own := r.shellOf(t, &v1.User{Id: account, Name: "forgetter"}, "bnd_1", "db-7", time.Now(), "$ ls\r\n")
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.PutSessionReview(t.Context(), sessionreview.Review{Meta: tenant.Meta{ID: sessionreview.ID(own.ID)}, Scope: own.Scope, SessionID: own.ID, State: sessionreview.Open})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	q := &v1.ForgetShellSessionRequest{Session: own.ID, Reason: "oops"}
	if got := refused(t, r.shellsAs(key).ForgetShellSession, q); got != "session_forget_own" {
		t.Errorf("one's own: %q", got)
	}
	if got := refused(t, r.shellsAs(r.signedIn(t, key).cookie.Value).ForgetShellSession, q); got != "step_up_required" {
		t.Errorf("without a passkey: %q", got)
	}
	again, second := r.forgetter(t, "by-another-account")
	alike := func(email string) {
		t.Helper()
		if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
			for _, one := range []string{account, again} {
				p, err := tx.Principal(t.Context(), one)
				if err != nil {
					return err
				}
				p.Email = email
				if _, err := tx.PutPrincipal(t.Context(), p); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	alike("eve@example.com")
	if got := refused(t, r.shellsAs(second).ForgetShellSession, q); got != "session_forget_own" {
		t.Errorf("by another account of the same person: %q", got)
	}
	_, other := r.forgetter(t, "other")
	if got := do(t, r.shellsAs(other).ForgetShellSession, q); got.Deletion == nil {
		t.Errorf("somebody else: %v", got)
	}
}

// The retention nearest to a session decides; what is held, runs, waits for a review or may yet be drawn for one is kept.
func TestRecordingsAreKeptAsLongAsTheirPlaceSays(t *testing.T) {
	r := serve(t)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	_, bob := r.person(t, &v1.CreateUserRequest{Name: "bob"}, "member")
	admin := r.shellsAs(r.key)
	now := time.Now()
	days := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	old, recent := r.shellOf(t, eve, "bnd_1", "db-7", days(40), "old\r\n"), r.shellOf(t, eve, "bnd_1", "db-7", days(20), "recent\r\n")
	onHold, waits, runs := r.shellOf(t, eve, "bnd_1", "db-7", days(40), "held\r\n"), r.shellOf(t, eve, "bnd_1", "db-7", days(40), "waits\r\n"), r.shellOf(t, eve, "bnd_1", "db-7", days(40), "runs\r\n")
	differs := r.shellOf(t, eve, "bnd_1", "db-7", days(40), "differs\r\n")
	r.change(t, differs.ID, func(s *noun.Session) { s.Verdict = noun.Disagreed })
	r.change(t, runs.ID, func(s *noun.Session) { s.State, s.Replica = noun.Running, "rep_elsewhere" })
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.PutSessionReview(t.Context(), sessionreview.Review{Meta: tenant.Meta{ID: sessionreview.ID(waits.ID)}, Scope: waits.Scope, SessionID: waits.ID, State: sessionreview.Open})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	do(t, admin.HoldShellSession, &v1.HoldShellSessionRequest{Session: onHold.ID, Reason: "case 17"})
	left := func() (out []string) {
		t.Helper()
		for name, s := range map[string]string{"old": old.ID, "recent": recent.ID, "held": onHold.ID, "waits": waits.ID, "runs": runs.ID, "differs": differs.ID} {
			if held(t, r.recording(s)) > 0 {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	for name, c := range map[string]struct {
		key  string
		q    *v1.SetRecordingRetentionRequest
		want string
	}{
		"less than a day":  {r.key, &v1.SetRecordingRetentionRequest{KeepDays: -1}, "recording_retention_invalid"},
		"more than all":    {r.key, &v1.SetRecordingRetentionRequest{KeepDays: 40_000}, "recording_retention_invalid"},
		"both":             {r.key, &v1.SetRecordingRetentionRequest{KeepDays: 7, Inherit: true}, "recording_retention_invalid"},
		"who may not":      {bob, &v1.SetRecordingRetentionRequest{KeepDays: 7}, "permission_denied"},
		"a place that not": {r.key, &v1.SetRecordingRetentionRequest{Workspace: "nowhere", KeepDays: 7}, "not_found"},
	} {
		if got := refused(t, r.shellsAs(c.key).SetRecordingRetention, c.q); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	r.tidy(t)
	if got := left(); len(got) != 6 {
		t.Fatalf("without a retention %v are left", got)
	}
	do(t, admin.SetRecordingRetention, &v1.SetRecordingRetentionRequest{KeepDays: 1, Reason: "nobody needs them"})
	do(t, admin.SetRecordingRetention, &v1.SetRecordingRetentionRequest{Workspace: "default", KeepDays: 30, Reason: "works council"})
	if got := do(t, admin.GetShellSession, &v1.GetShellSessionRequest{Session: recent.ID}).KeptUntil; got == nil || got.AsTime().Sub(recent.EndedAt).Round(2*time.Hour) != 30*24*time.Hour {
		t.Errorf("it is kept until %v", got)
	}
	do(t, r.looking(r.key).SetSessionReviewPolicy, &v1.SetSessionReviewPolicyRequest{SharePercent: 5})
	month := sessionreview.MonthOf(old.EndedAt)
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		return tx.PutSessionDraw(t.Context(), sessionreview.Month{ID: month, Sealed: []byte{1}})
	}); err != nil {
		t.Fatal(err)
	}
	r.tidy(t)
	if got := left(); len(got) != 6 {
		t.Fatalf("while their month may yet be drawn %v are left", got)
	}
	do(t, r.looking(r.key).UnsetSessionReviewPolicy, &v1.UnsetSessionReviewPolicyRequest{})
	for range 2 {
		r.tidy(t)
	}
	if got := left(); !slices.Equal(got, []string{"differs", "held", "recent", "runs", "waits"}) {
		t.Errorf("left are %v", got)
	}
	if got := do(t, admin.GetShellSession, &v1.GetShellSessionRequest{Session: differs.ID}).KeptUntil; got != nil {
		t.Errorf("what disagrees is kept until %v", got)
	}
	gone := do(t, admin.GetShellSession, &v1.GetShellSessionRequest{Session: old.ID})
	if d := gone.Deletion; d == nil || d.PrincipalId != "" || d.Reason != "kept for 30 days after the session ended" || gone.KeptUntil != nil || gone.Root == "" {
		t.Errorf("got %v", gone)
	}
	if entries := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Action: "shell_sessions.expire"}).Items; len(entries) != 1 || entries[0].Target != old.ID {
		t.Errorf("the audit log has %v", entries)
	}
	// The place's own is taken away: the deployment's day holds.
	do(t, admin.SetRecordingRetention, &v1.SetRecordingRetentionRequest{Workspace: "default", Inherit: true})
	if got := do(t, admin.ListRecordingRetentions, &v1.ListRecordingRetentionsRequest{}).Items; len(got) != 1 || got[0].KeepDays != 1 || got[0].Reason != "nobody needs them" {
		t.Errorf("set are %v", got)
	}
	do(t, admin.ReleaseShellSession, &v1.ReleaseShellSessionRequest{Session: onHold.ID, Reason: "closed"})
	r.tidy(t)
	if got := left(); !slices.Equal(got, []string{"differs", "runs", "waits"}) {
		t.Errorf("left are %v", got)
	}
	if got := refused(t, r.shellsAs(bob).ListRecordingRetentions, &v1.ListRecordingRetentionsRequest{}); got != "permission_denied" {
		t.Errorf("who may not read sessions: %q", got)
	}
}

// Holds are set while the worker deletes, in batches: each either comes too late, and says so, or keeps its recording.
func TestAHoldOrADeletionWins(t *testing.T) {
	r := serve(t)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	admin := r.shellsAs(r.key)
	var sessions []string
	for i := range 230 { // more than two batches
		sessions = append(sessions, r.shellOf(t, eve, "bnd_1", fmt.Sprint("web-", i), time.Now().Add(-72*time.Hour)).ID)
	}
	do(t, admin.SetRecordingRetention, &v1.SetRecordingRetentionRequest{KeepDays: 1})
	var work sync.WaitGroup
	var mu sync.Mutex
	said := map[string]string{}
	some := make(chan struct{})
	for part := range slices.Chunk(sessions, 60) {
		work.Go(func() {
			for _, one := range part {
				_, err := admin.HoldShellSession(t.Context(), connect.NewRequest(&v1.HoldShellSessionRequest{Session: one, Reason: "case 17"}))
				mu.Lock()
				said[one] = ""
				if err != nil {
					said[one] = codeOf(err)
				}
				if len(said) == 40 {
					close(some)
				}
				mu.Unlock()
			}
		})
	}
	for range 2 { // as two replicas
		work.Go(func() {
			<-some
			if err := r.shells.Tidy(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	r.tidy(t)
	var kept, gone int
	for _, one := range sessions {
		row, there := r.row(t, one), held(t, r.recording(one)) > 0
		switch {
		case said[one] == "" && there && row.Deletion.At.IsZero() && len(row.Sealed) > 0:
			kept++
		case said[one] == "recording_deleted" && !there && row.Held.At.IsZero() && len(row.Sealed) == 0:
			gone++
		default:
			t.Errorf("%s: the hold was answered %q, deleted %v, there %v", one, said[one], row.Deletion, there)
		}
	}
	if kept < 40 {
		t.Errorf("%d are kept", kept)
	}
	if entries, err := r.db.View().CountHeldRecordings(t.Context()); err != nil || entries != int64(kept) {
		t.Errorf("%d are held, %v; want %d", entries, err, kept)
	}
	t.Logf("%d were held in time, %d were not", kept, gone)
}

// The process dies between a deletion's steps, or in the middle of a pass: what is left is deleted by the next.
func TestADeletionGoesOnAfterACrash(t *testing.T) {
	r := serve(t)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	keyless := r.shellOf(t, eve, "bnd_1", "db-7", time.Now().Add(-72*time.Hour), "x\r\n")
	r.change(t, keyless.ID, func(s *noun.Session) {
		s.Sealed, s.Deletion = nil, noun.Word{At: time.Now(), Reason: "kept for 1 days after the session ended"}
	})
	// A session that went on with another replica leaves what it recorded until then on the disk of the first.
	stray := r.shellOf(t, eve, "bnd_1", "db-8", time.Now().Add(-72*time.Hour), "x\r\n")
	r.change(t, stray.ID, func(s *noun.Session) {
		s.Sealed, s.Replica, s.Deletion = nil, "rep_elsewhere", noun.Word{At: time.Now(), Reason: "leak"}
	})
	if held(t, r.recording(keyless.ID)) == 0 {
		t.Fatal("nothing is left to be deleted")
	}
	for i := range 120 {
		r.shellOf(t, eve, "bnd_1", fmt.Sprint("web-", i), time.Now().Add(-72*time.Hour))
	}
	do(t, r.shellsAs(r.key).SetRecordingRetention, &v1.SetRecordingRetentionRequest{KeepDays: 1})
	dead, die := context.WithCancel(t.Context())
	die()
	if err := r.shells.Tidy(dead); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
	r.tidy(t)
	for _, one := range []string{keyless.ID, stray.ID} {
		if held(t, r.recording(one)) != 0 {
			t.Errorf("%s is still there", one)
		}
	}
	due, err := r.db.View().ExpirableShellSessions(t.Context(), access.Scope{}, time.Now().Add(-24*time.Hour), "", 10)
	if err != nil || len(due) != 0 {
		t.Errorf("still due are %d, %v", len(due), err)
	}
	if entries := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Action: "shell_sessions.expire", Page: &v1.Page{Size: 500}}).Items; len(entries) != 120 {
		t.Errorf("the audit log has %d", len(entries))
	}
}

// Whoever sees a recording played when it is deleted sees no more of it.
func TestAPlayerIsCutOffWhenTheRecordingIsDeleted(t *testing.T) {
	r := serve(t)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	_, key := r.forgetter(t, "forgetter")
	s := r.shellOf(t, eve, "bnd_1", "db-7", time.Now(), "one\r\n", "two\r\n", "three\r\n")
	watching := access.WithActor(t.Context(), access.Actor{Kind: access.System, ID: "test", Grants: []access.Grant{{ID: "test", Permissions: []access.Permission{access.All}}}})
	var shown string
	err := r.shells.Replay(watching, s.ID, func(events iter.Seq2[recording.Event, error]) error {
		for e, err := range events {
			if err != nil {
				return err
			}
			if shown += string(e.Data); strings.HasSuffix(shown, "one\r\n") {
				do(t, r.shellsAs(key).ForgetShellSession, &v1.ForgetShellSessionRequest{Session: s.ID, Reason: "leak"})
			}
		}
		return nil
	})
	if fault.Of(err).Code != "recording_deleted" || strings.Contains(shown, "two") {
		t.Errorf("%v after %q", err, shown)
	}
}

// A disk that does not let go of a recording keeps nothing that can be read; it is tried again.
func TestADiskThatDoesNotLetGo(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	disk := filepath.Join(data, "recordings")
	if err := os.MkdirAll(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=60m"); err != nil {
		t.Skipf("missing feature: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	r := serve(t, "--data-dir", data)
	eve, _ := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	_, key := r.forgetter(t, "forgetter")
	s := r.shellOf(t, eve, "bnd_1", "db-7", time.Now(), "x\r\n")
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if got := do(t, r.shellsAs(key).ForgetShellSession, &v1.ForgetShellSessionRequest{Session: s.ID, Reason: "leak"}); got.Deletion == nil {
		t.Errorf("got %v", got)
	}
	if err := r.shells.Tidy(t.Context()); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), s.ID) {
		t.Errorf("got %v", err)
	}
	if held(t, r.recording(s.ID)) == 0 || len(r.row(t, s.ID).Sealed) != 0 {
		t.Error("the bytes are to be there, and their key gone")
	}
	remount(0)
	r.tidy(t)
	if held(t, r.recording(s.ID)) != 0 {
		t.Error("it is still there")
	}
}
