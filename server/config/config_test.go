package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/fault"
)

// load runs Load as `loopbackd serve` does.
func load(t *testing.T, args []string, env map[string]string, file string) (*Settings, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	var s Settings
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	s.Register(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &s, s.Load(f, func(k string) string { return env[k] })
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	s, err := load(t, []string{"--listen", ":1"},
		map[string]string{"LOOPBACKD_LISTEN": ":2", "LOOPBACKD_LOG_LEVEL": "debug"},
		"listen: ':3'\nlog-level: warn\ntoken-long-ttl: 24h\ntoken-max-ttl: 48h\ntls-name: [a.example, b.example]\ntoken-max-uses: 7\n")
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != ":1" || s.LogLevel != "debug" || s.TokenMaxTTL != 48*time.Hour || s.TokenMaxUses != 7 {
		t.Errorf("got listen %q, log level %q, token max ttl %s, uses %d", s.Listen, s.LogLevel, s.TokenMaxTTL, s.TokenMaxUses)
	}
	if got := strings.Join(s.TLSNames, ","); got != "a.example,b.example" {
		t.Errorf("got names %q", got)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	s, err := load(t, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Database != "/var/lib/loopbackd/loopback.db" || !strings.HasPrefix(s.PublicURL, "https://") {
		t.Errorf("got database %q, public url %q", s.Database, s.PublicURL)
	}
}

// Each setting wrong by itself is refused, and the refusal names the place that it came from.
func TestEveryWrongSettingIsNamed(t *testing.T) {
	wrong := map[string]string{
		"listen": "8443", "metrics-listen": "here", "data-dir": " ", "public-url": "http://plain", "tls-certificate": "x.pem", "tls-key": "k.pem",
		"trusted-proxy": "10.0.0", "database": "mysql://x", "log-level": "loud", "log-format": "xml",
		"token-default-ttl": "3s", "token-long-ttl": "2m", "token-max-ttl": "1m", "token-default-max-uses": "0", "token-max-uses": "0",
		"reconnect-window": "1s", "heartbeat-rate": "0", "admission-rate": "-1", "enrolment-rate": "0", "shutdown-timeout": "0s",
		"source-rate": "0", "source-handshakes": "0", "source-connections": "0", "caller-rate": "-5", "calls": "0", "caller-calls": "0", "streams": "0", "caller-streams": "0",
		"trace-endpoint": "collector:4318", "trace-share": "2", "read-timeout": "1ms", "write-timeout": "0s",
		"cluster-listen": "8445", "cluster-peers": "db", "replica-listen": ":0", "advertise": "https://a.example", "bus": "http://x",
		"sign-in-idle": "1m", "sign-in-max": "1h",
		"bus-ca": "x.pem", "bus-certificate": "x.pem", "bus-key": "k.pem", "bus-credentials": "x.creds",
	}
	delete(wrong, "data-dir") // any text names a folder
	var s Settings
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(f)
	f.VisitAll(func(fl *pflag.Flag) {
		if _, ok := wrong[fl.Name]; !ok && fl.Name != "config" && fl.Name != "data-dir" && fl.Name != "tls-name" {
			t.Errorf("no wrong value of %s is tested", fl.Name)
		}
	})
	for name, value := range wrong {
		_, err := load(t, nil, map[string]string{Variable(name): value}, "")
		if name == "tls-key" {
			name = "tls-certificate" // the pair is named by its first
		} else if fault.KindOf(err) == fault.Invalid && !strings.Contains(err.Error(), Variable(name)) {
			t.Errorf("%s=%q: the error does not name where it came from: %v", name, value, err)
		}
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s=%q: got %v, want an invalid argument", name, value, err)
		}
	}
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	_, err := load(t, nil, map[string]string{"LOOPBACKD_LOG_LEVEL": "loud"}, "log-format: xml\ntoken-max-uses: many\nlisten-on: x\n")
	e := fault.Of(err)
	if len(e.Violations) != 4 {
		t.Fatalf("got %d violations, want 4: %v", len(e.Violations), err)
	}
}

func TestUnreadableFile(t *testing.T) {
	_, err := load(t, []string{"--config", "/nonexistent/x.yaml"}, nil, "")
	if fault.Of(err).Code != "settings_unreadable" {
		t.Errorf("got %v", err)
	}
	_, err = load(t, nil, nil, "- a\n- b\n")
	if fault.Of(err).Code != "settings_unreadable" {
		t.Errorf("got %v", err)
	}
}
