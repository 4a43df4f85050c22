package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

// keeping: how long recordings of shells are kept, and which are due.
var keeping = []test{
	{"retentions of recordings are one to a place", func(t *testing.T, b *bench) {
		org, space := access.Scope{Organisation: "org_1"}, access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
		want := []shell.Retention{{KeepDays: 400, UpdatedAt: b.now()}, {Scope: org, KeepDays: 30, Reason: "works council", By: "ada", UpdatedAt: b.now()}}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			return errors.Join(tx.PutRecordingRetention(ctx, shell.Retention{Scope: org, KeepDays: 1}), tx.PutRecordingRetention(ctx, want[1]), tx.PutRecordingRetention(ctx, want[0]),
				tx.PutRecordingRetention(ctx, shell.Retention{Scope: space, KeepDays: 7}), tx.DeleteRecordingRetention(ctx, space), tx.DeleteRecordingRetention(ctx, access.Scope{Organisation: "org_2"}))
		})
		got, err := b.DB.View().RecordingRetentions(t.Context())
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v: (-want +got)\n%s", err, diff)
		}
	}},
	{"recordings are found that are due, deleted, held, or still on a host", func(t *testing.T, b *bench) {
		noon := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
		w1, w2 := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}, access.Scope{Organisation: "org_2", Project: "prj_2", Workspace: "ws_2"}
		machines := b.workspace(t)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for one, lifecycle := range map[string]host.Lifecycle{"hst_1": host.LifecycleActive, "hst_2": host.LifecycleRemoved} {
				h := host.Host{Meta: tenant.Meta{ID: one, Name: one}, Scope: machines.Scope()}
				h.Lifecycle = lifecycle
				if _, err := tx.PutHost(ctx, h); err != nil {
					return err
				}
			}
			for i, s := range []shell.Session{
				0: {Scope: w1, State: shell.Ended, EndedAt: noon},
				1: {Scope: w1, State: shell.Ended, EndedAt: noon, Held: shell.Word{At: noon}},
				2: {Scope: w1, State: shell.Ended, EndedAt: noon, Deletion: shell.Word{At: noon}, HostID: "hst_1"},
				3: {Scope: w1, State: shell.Ended, EndedAt: noon, Deletion: shell.Word{At: noon}, HostID: "hst_1", HostAt: noon},
				4: {Scope: w1, State: shell.Ended, EndedAt: noon, Deletion: shell.Word{At: noon}, HostID: "hst_2"},
				5: {Scope: w1, State: shell.Running},
				6: {Scope: w1, State: shell.Ended, EndedAt: noon}, // waits for somebody to look
				7: {Scope: w1, State: shell.Ended, EndedAt: noon}, // was looked at
				8: {Scope: w2, State: shell.Ended, EndedAt: noon},
				9: {Scope: w1, State: shell.Ended, EndedAt: noon.Add(time.Hour)},
			} {
				s.ID = fmt.Sprint("ses_", i)
				if _, err := tx.PutShellSession(ctx, s); err != nil {
					return err
				}
			}
			for session, state := range map[string]sessionreview.State{"ses_6": sessionreview.Open, "ses_7": sessionreview.Done} {
				if _, err := tx.PutSessionReview(ctx, sessionreview.Review{Meta: tenant.Meta{ID: sessionreview.ID(session)}, Scope: w1, SessionID: session, State: state}); err != nil {
					return err
				}
			}
			return nil
		})
		view := b.DB.View()
		ids := func(list []shell.Session, err error) string {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, s := range list {
				out = append(out, s.ID)
			}
			return strings.Join(out, " ")
		}
		later := noon.Add(time.Minute)
		for name, c := range map[string]struct{ got, want string }{
			"due":                {ids(view.ExpirableShellSessions(t.Context(), w1, later, "", 10)), "ses_0 ses_7"},
			"due, after one":     {ids(view.ExpirableShellSessions(t.Context(), w1, later, "ses_0", 10)), "ses_7"},
			"due, the first":     {ids(view.ExpirableShellSessions(t.Context(), w1, later, "", 1)), "ses_0"},
			"due anywhere":       {ids(view.ExpirableShellSessions(t.Context(), access.Scope{}, later, "", 10)), "ses_0 ses_7 ses_8"},
			"due at that moment": {ids(view.ExpirableShellSessions(t.Context(), w1, noon, "", 10)), ""},
			"on a host":          {ids(view.UndroppedShellSessions(t.Context(), "", 10)), "ses_2"},
			"on a host, after":   {ids(view.UndroppedShellSessions(t.Context(), "ses_2", 10)), ""},
		} {
			if c.got != c.want {
				t.Errorf("%s: got %q, want %q", name, c.got, c.want)
			}
		}
		gone, err := view.DeletedRecordings(t.Context(), []string{"ses_0", "ses_3", "ses_2", "ses_none"})
		if err != nil || strings.Join(gone, " ") != "ses_2 ses_3" {
			t.Errorf("deleted are %v, %v", gone, err)
		}
		if gone, err := view.DeletedRecordings(t.Context(), nil); err != nil || len(gone) != 0 {
			t.Errorf("of none: %v, %v", gone, err)
		}
		if n, err := view.CountHeldRecordings(t.Context()); err != nil || n != 1 {
			t.Errorf("%d are held, %v", n, err)
		}
	}},
}
