package docs

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/server"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/test/port"
)

// scrape is what Prometheus gets of a control plane that nobody has called yet.
func scrape(t *testing.T) string {
	t.Helper()
	address, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	var s config.Settings
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	s.Register(f)
	if err := f.Parse([]string{"--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--metrics-listen", address}); err != nil {
		t.Fatal(err)
	}
	if err := s.Load(f, func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(t.Context(), server.Options{Settings: s, Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		res, err := http.Get("http://" + address + "/metrics")
		if err == nil {
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			// The first look at the vital signs runs beside the start; the certificates come last in it.
			if err == nil && strings.Contains(string(b), "\nloopback_certificate_expiry_timestamp_seconds{") {
				return string(b)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no scrape in a minute: %v", err)
		}
	}
}

type rule struct {
	Alert, Expr string
	Labels      struct{ Severity string }
	Annotations struct{ Summary, Runbook string }
}

func alertRules(t *testing.T) []rule {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(b, &file); err != nil || len(file.Groups) == 0 {
		t.Fatalf("%d groups, %v", len(file.Groups), err)
	}
	return file.Groups[0].Rules
}

func TestEveryAlertHasARunbookAndEveryRunbookAnAlert(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/runbooks/loopback-*.md"))
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for _, p := range pages {
		unused["docs/runbooks/"+filepath.Base(p)] = true
	}
	for _, r := range alertRules(t) {
		b, err := os.ReadFile(filepath.Join(root, r.Annotations.Runbook))
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		delete(unused, r.Annotations.Runbook)
		for _, want := range []string{"# " + r.Alert + "\n", "## What it means", "## Where to look", "## What to do"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %q", r.Annotations.Runbook, want)
			}
		}
		if r.Labels.Severity != "critical" && r.Labels.Severity != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels.Severity)
		}
	}
	for p := range unused {
		t.Errorf("%s belongs to no alert", p)
	}
}

var (
	usedMetric    = regexp.MustCompile(`\b(?:loopback|process)_[a-z_]+`)
	scrapedMetric = regexp.MustCompile(`(?m)^([a-z_]+)[ {]`)
	scrapedType   = regexp.MustCompile(`(?m)^# TYPE ([a-z_]+) `)
)

// Every metric that the dashboard or a rule names is in a real scrape, or is one that counts by a label and has counted
// nothing yet.
func TestDashboardAndRulesNameRealMetrics(t *testing.T) {
	text := scrape(t)
	there := map[string]bool{}
	for _, pattern := range []*regexp.Regexp{scrapedMetric, scrapedType} {
		for _, m := range pattern.FindAllStringSubmatch(text, -1) {
			there[m[1]] = true
		}
	}
	// Series whose labels come with the first event; TestTheTableOfMetricsIsThatOfTheProgram knows that they are registered.
	for _, later := range []string{"loopback_link_handshakes_total", "loopback_link_refusals_total", "loopback_link_sections_total",
		"loopback_link_observations_total", "loopback_sink_failing", "loopback_sink_lag_entries", "loopback_sink_dead_letters", "loopback_release_metadata_expiry_timestamp_seconds",
		"loopback_api_call_duration_seconds_bucket", "loopback_api_call_duration_seconds_count"} {
		there[later] = true
	}
	used := map[string]string{}
	for _, r := range alertRules(t) {
		for _, name := range usedMetric.FindAllString(r.Expr, -1) {
			used[name] = r.Alert
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "docs/monitoring/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("the panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range usedMetric.FindAllString(target.Expr, -1) {
				used[name] = p.Title
			}
		}
	}
	if len(used) < 30 {
		t.Errorf("only %d metrics are used", len(used))
	}
	for name, by := range used {
		if !there[name] {
			t.Errorf("%s uses %s, which a scrape does not have", by, name)
		}
	}
}

func TestTheRulesFireWhenTheyShould(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed (make prepare)")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		c := exec.Command("promtool", args...)
		c.Dir = filepath.Join(root, "docs/monitoring")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	c := exec.Command("promtool", "check", "metrics")
	c.Stdin = strings.NewReader(scrape(t))
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
