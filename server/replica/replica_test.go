package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/trust"
)

// shared is a database in memory that can be away.
type shared struct {
	mu   sync.Mutex
	rows map[string]replica.Replica
	away bool
}

func (s *shared) View() Reader { return s }

func (s *shared) Observe(_ context.Context, do func(Tx) error) error {
	if s.isAway() {
		return errAway
	}
	return do(s)
}

var errAway = fault.New(fault.Unavailable, "database_unreachable", "the database is away")

func (s *shared) isAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

func (s *shared) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *shared) Replicas(context.Context) (out []replica.Replica, err error) {
	if s.isAway() {
		return nil, errAway
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		out = append(out, r)
	}
	return out, nil
}

func (s *shared) PutReplica(_ context.Context, r replica.Replica) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[r.Name] = r
	return nil
}

func (s *shared) Keyset(context.Context) (trust.Signed, bool, error) {
	return trust.Signed{}, false, nil
}
func (s *shared) PutKeyset(context.Context, trust.Signed) error { return nil }

func (s *shared) Leases(context.Context, time.Time) ([]replica.Lease, error) {
	return []replica.Lease{{Owner: "a", What: "audit log"}}, nil
}

type keys struct{}

func (keys) Current() (trust.Keyset, trust.Signed)        { return trust.Keyset{}, trust.Signed{} }
func (keys) Adopt(trust.Signed) (changed bool, err error) { return false, nil }

func newService(s *shared, name, folder string, present func([]string)) *Service {
	return New(Options{
		Store: s, Keys: keys{}, Me: replica.Replica{Name: name}, Folder: folder, Instance: fmt.Sprint(time.Now().UnixNano()),
		Links: func() int { return 0 }, Position: func() int64 { return 0 }, BusPeers: func() int64 { return 1 },
		Database: func(context.Context) (time.Time, error) { return time.Now(), nil }, Present: present, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
}

// run keeps a lease until stop is called.
func run(t *testing.T, s *Service) (stop func()) {
	t.Helper()
	if err := s.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("%s ended: %v", s.me.Name, err)
		}
	})
	return func() { cancel(); running.Wait() }
}

func state(s *Service, name string) replica.State {
	for _, r := range s.All() {
		if r.Name == name {
			return r.State
		}
	}
	return ""
}

func TestALeaseThatIsNotRenewedEndsAndADatabaseThatIsAwayProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{rows: map[string]replica.Replica{}}
		a, b := newService(s, "a", "1", nil), newService(s, "b", "2", nil)
		stopA, stopB := run(t, a), run(t, b)
		defer stopA()
		time.Sleep(10 * time.Second)
		if got := state(a, "b"); got != replica.Serving {
			t.Errorf("b is %q, want serving", got)
		}
		s.set(true)
		time.Sleep(5 * time.Minute)
		s.set(false)
		time.Sleep(4 * time.Second)
		if got := state(a, "b"); got != replica.Serving {
			t.Errorf("after the database was away b is %q, want serving", got)
		}
		stopB() // without a word
		time.Sleep(15 * time.Second)
		if got := state(a, "b"); got != replica.Serving {
			t.Errorf("within its lease b is %q, want serving", got)
		}
		time.Sleep(10 * time.Second)
		if got := state(a, "b"); got != replica.Gone {
			t.Errorf("after its lease b is %q, want gone", got)
		}
		again := newService(s, "b", "2", nil)
		stop := run(t, again) // the same folder: at once
		time.Sleep(4 * time.Second)
		if got := state(a, "b"); got != replica.Serving {
			t.Errorf("b is back and shows as %q", got)
		}
		stop()
		if err := again.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		if got := state(a, "b"); got != replica.Left {
			t.Errorf("b has left and shows as %q", got)
		}
	})
}

func TestOneNameIsOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{rows: map[string]replica.Replica{}}
		first := newService(s, "a", "1", nil)
		stop := run(t, first)
		if err := newService(s, "a", "2", nil).Join(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("a second of the name was answered %v", err)
		}
		stop() // it hangs: whoever comes waits its lease out
		began := time.Now()
		second := newService(s, "a", "2", nil)
		if err := second.Join(t.Context()); err != nil {
			t.Errorf("after the first died: %v", err)
		}
		if waited := time.Since(began); waited < 20*time.Second || waited > 30*time.Second {
			t.Errorf("it waited %s, want a lease", waited)
		}
		if err := first.Once(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("the first wakes and is answered %v", err)
		}
	})
}
