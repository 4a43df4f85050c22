package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/server/config"
)

func TestReadinessFollowsDatabaseAndShutdown(t *testing.T) {
	var set config.Settings
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.Register(f)
	if err := f.Parse([]string{"--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--metrics-listen", "off"}); err != nil {
		t.Fatal(err)
	}
	if err := set.Load(f, func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), Options{Settings: set, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	handler := s.handler()
	ask := func(path string) int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	expect := func(when string, ready int) {
		t.Helper()
		if got := ask("/readyz"); got != ready {
			t.Errorf("%s: /readyz got %d, want %d", when, got, ready)
		}
		if got := ask("/healthz"); got != http.StatusOK {
			t.Errorf("%s: /healthz got %d, want 200", when, got)
		}
	}
	expect("while it serves", http.StatusOK)
	s.stop()
	expect("while it stops", http.StatusServiceUnavailable)
	s.stopping = context.Background()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expect("without its database", http.StatusServiceUnavailable)
}
