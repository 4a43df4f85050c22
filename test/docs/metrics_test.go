package docs

import (
	"context"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/server"
	"github.com/loopbackd/loopback/server/config"
)

var (
	metricName  = regexp.MustCompile("`(loopback_[a-z_]+)`")
	describedAs = regexp.MustCompile(`fqName: "(loopback_[a-z_]+)"`)
)

// The table of metrics is that of a control plane that ran.
func TestTheTableOfMetricsIsThatOfTheProgram(t *testing.T) {
	var s config.Settings
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	s.Register(f)
	if err := f.Parse([]string{"--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Load(f, func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	srv, err := server.New(t.Context(), server.Options{Settings: s, Logger: slog.New(slog.DiscardHandler), Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it starts, registers all that it has, and stops in order
	if err := srv.Run(ctx); err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc)
	go func() {
		registry.Describe(descriptions)
		close(descriptions)
	}()
	exported := map[string]bool{}
	for d := range descriptions {
		if m := describedAs.FindStringSubmatch(d.String()); m != nil {
			exported[m[1]] = true
		}
	}
	_, text, _ := strings.Cut(guide(t, "operate.md"), "## Health and metrics")
	text, _, _ = strings.Cut(text, "Worth an alert")
	listed := map[string]bool{}
	for _, m := range metricName.FindAllStringSubmatch(text, -1) {
		listed[m[1]] = true
		if !exported[m[1]] {
			t.Errorf("operate.md lists %s, which is not exported", m[1])
		}
	}
	for name := range exported {
		if !listed[name] {
			t.Errorf("operate.md does not list %s", name)
		}
	}
}
