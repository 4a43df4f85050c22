package status

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"
)

func TestTheSocketTellsAndOnlyRootMayAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	if _, err := Fetch(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before: got %v; want ErrNotRunning", err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := Report{State: "linked", Since: at, OK: true, HostID: "hst_1", Sections: []Section{{Name: "settings", Status: "applied", Revision: "1.2", AppliedAt: &at}},
		Modules: []Module{{Name: "settings", Healthy: true}}, LastError: &Problem{Code: "dns_failed", Message: "m", Hint: "h", At: at}}
	for range 2 { // the second agent replaces the first one's socket
		s, err := Listen(path, func() Report { return want })
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("got %v, %v; want mode 660", info.Mode(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(ctx); err != nil {
				t.Error(err)
			}
		})
		got, err := Fetch(t.Context(), path)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		cancel()
		serving.Wait()
	}
	if _, err := Fetch(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after: got %v; want ErrNotRunning", err)
	}
}
