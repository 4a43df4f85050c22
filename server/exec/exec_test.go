package exec

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
)

// old is a store with some runs to delete.
type old struct {
	Tx
	left int
	at   []time.Time // when one was asked for
}

func (o *old) View() Reader                                             { return nil }
func (o *old) Write(ctx context.Context, change func(Tx) error) error   { return change(o) }
func (o *old) Observe(ctx context.Context, change func(Tx) error) error { return change(o) }

func (o *old) PruneExecs(_ context.Context, before time.Time) (bool, error) {
	o.at = append(o.at, before.Add(kept))
	if len(o.at) == 4 {
		return true, fault.New(fault.Unavailable, "database_away", "the database is away")
	}
	o.left = max(0, o.left-1)
	return o.left > 0, nil
}

func TestOldRunsAreDeletedEveryHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &old{left: 3}
		s := NewService(store, nil, nil, nil, nil, nil, Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
		began := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		go s.prune(ctx)
		time.Sleep(150 * time.Minute)
		stop()
		synctest.Wait()
		// Three at the start, one that fails an hour later and is not tried again at once, one after another hour.
		var hours []float64
		for _, at := range store.at {
			hours = append(hours, at.Sub(began).Hours())
		}
		if got := fmt.Sprint(hours); got != "[0 0 0 1 2]" {
			t.Errorf("deleted at hours %s", got)
		}
	})
}

// everybody is a fleet whose hosts are all there, but for some that are offline.
type everybody struct{ offline map[string]bool }

func (everybody) Snapshot(access.Scope) ([]*host.Host, int64) { return nil, 0 }
func (everybody) Host(id string) (*host.Host, bool) {
	h := &host.Host{}
	h.ID, h.Lifecycle = id, host.LifecycleActive
	return h, true
}
func (e everybody) Online(id string) bool         { return !e.offline[id] }
func (everybody) Holds(string) bool               { return true }
func (everybody) Order(string, Order) bool        { return true }
func (everybody) Word(string, string, bool, bool) {}

// TestWhoseTurnItIs plays runs in which hosts answer as a line says, one letter a host: s succeeds, f fails, o is offline. What
// becomes of each is told by letters too: S, F, U (unreachable), K (skipped).
func TestWhoseTurnItIs(t *testing.T) {
	for _, c := range []struct {
		name                         string
		hosts, want                  string
		concurrency, failures, first int
	}{
		{"all at once", "sfos", "SFUS", 10, 0, 0},
		{"one at a time, never stopping", "fffs", "FFFS", 1, 0, 0},
		{"one at a time, bearing two", "sffsss", "SFFKKK", 1, 2, 0},
		{"those that are offline count", "oosss", "UUKKK", 1, 2, 0},
		{"two at a time, bearing one: the other goes on", "fsss", "FSKK", 2, 1, 0},
		{"the canaries succeed", "ssff", "SSFF", 10, 0, 2},
		{"a canary fails", "sfss", "SFKK", 10, 0, 2},
		{"a canary is offline", "osss", "UKKK", 10, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			there := everybody{map[string]bool{}}
			rows := make([]exec.Host, len(c.hosts))
			for i, l := range c.hosts {
				rows[i] = exec.Host{ID: fmt.Sprint(i), HostID: fmt.Sprint(i), Name: fmt.Sprint(i), Place: i, State: exec.Waiting}
				there.offline[rows[i].HostID] = l == 'o'
			}
			s := NewService(nil, nil, nil, there, there, nil, Options{Now: time.Now})
			r := exec.Run{Concurrency: c.concurrency, MaxFailures: c.failures, Canary: c.first, Command: exec.Command{Timeout: time.Minute}}
			now := time.Now()
			for range 2 * len(rows) {
				s.plan(&r, rows, now, false)
				began := 0
				for i := range rows {
					if rows[i].State == exec.Ready {
						began++
						rows[i].State = map[byte]exec.HostState{'s': exec.Done, 'f': exec.Unsuccessful}[c.hosts[i]]
					}
				}
				if began > c.concurrency {
					t.Errorf("%d were begun at a time", began)
				}
			}
			var got strings.Builder
			for _, h := range rows {
				got.WriteString(map[exec.HostState]string{exec.Done: "S", exec.Unsuccessful: "F", exec.Unreachable: "U", exec.Skipped: "K"}[h.State])
			}
			if got.String() != c.want {
				t.Errorf("got %s, want %s (%s)", got.String(), c.want, r.Reason)
			}
			if strings.Contains(c.want, "K") != (r.Reason != "") {
				t.Errorf("the reason is %q", r.Reason)
			}
		})
	}
}

// keys is one API key, as long as it lives.
type keys struct{ err error }

func (k keys) Bound(context.Context, string) (access.Actor, error) {
	return access.Actor{Grants: []access.Grant{{ID: "key", Permissions: []access.Permission{exec.Start}}}}, k.err
}

// TestWhatARunRestsOn asks whether a run that was started an hour ago goes on.
func TestWhatARunRestsOn(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		kind access.Kind
		key  error
		mfa  time.Duration // before the start; 0: none was shown
		want string        // goes on, ends, waits
	}{
		{"a key that lives", access.APIKey, nil, 0, "ends"}, // the rule wants a second factor
		{"a passkey that was fresh at the start", access.SignIn, nil, time.Minute, "goes on"},
		{"a passkey that was not", access.SignIn, nil, 10 * time.Minute, "ends"},
		{"a key that was revoked", access.APIKey, fault.New(fault.Unauthenticated, "api_key_revoked", "revoked"), time.Minute, "ends"},
		{"a key that cannot be looked up", access.APIKey, fault.New(fault.Unavailable, "database_away", "away"), time.Minute, "waits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			catalogue := access.NewCatalogue([]access.Permission{exec.Start}, nil, nil)
			policy := access.NewPolicy(catalogue, func() time.Time { return now })
			s := NewService(nil, nil, nil, everybody{}, everybody{}, nil, Options{Now: func() time.Time { return now }, Policy: policy, Keys: keys{c.key}})
			r := exec.Run{Actor: exec.Actor{Kind: c.kind, ID: "key", Principal: "usr"}}
			r.CreatedAt = now.Add(-time.Hour)
			if c.mfa > 0 {
				r.Actor.MFA = r.CreatedAt.Add(-c.mfa)
			}
			rows := []exec.Host{{HostID: "h", State: exec.OnHost}}
			if _, err := s.revoked(t.Context(), r, rows); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("while nothing is known of the rules: %v; it has to wait", err)
			}
			policy.Swap(snapshot(catalogue))
			ended, err := s.revoked(t.Context(), r, rows)
			got := map[bool]string{true: "ends", false: "goes on"}[ended]
			if err != nil {
				got = "waits"
			}
			if got != c.want {
				t.Errorf("it %s (%v); wanted: %s", got, err, c.want)
			}
		})
	}
}

// snapshot is a rule that gives a user commands, with a second factor no older than five minutes.
func snapshot(c *access.Catalogue) *access.Snapshot {
	rules := access.NewRules(c)
	rules.PutPrincipal(access.Principal{Kind: access.User, ID: "usr", Active: true})
	rules.PutRule(access.Rule{ID: "rule", Subject: access.Subject{Kind: access.User, ID: "usr"}, Permissions: []access.Permission{exec.Start},
		Conditions: access.Conditions{MFAWithin: 5 * time.Minute}})
	return rules.Snapshot(1)
}
