// Package config is what the control plane is told at start.
//
// A setting is given by a flag, else by its environment variable (LOOPBACKD_ and the flag's name in capitals), else by
// the YAML file named by --config, else it has its default. Every setting has one name in all three. Load collects
// everything that is wrong and says for each thing where it came from, so that one run of `loopbackd check` is enough.
package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/fault"
)

// Settings of a control plane.
type Settings struct {
	File string // where settings were read from; empty: none

	Listen         string   // host:port of the one HTTPS port
	MetricsListen  string   // host:port of metrics and profiling; "off" for none
	DataDir        string   // keys, the embedded database, releases
	PublicURL      string   // where agents and people reach this control plane
	TLSCertificate string   // PEM files; empty: a certificate of the local CA
	TLSKey         string   //
	TLSNames       []string // further names and addresses for the certificate of the local CA
	TrustedProxies []string // networks whose X-Forwarded-For is believed
	Database       string   // path of an SQLite file or postgres://…; empty: DataDir/loopback.db
	LogLevel       string   // debug, info, warn, error
	LogFormat      string   // text or json

	TokenDefaultTTL     time.Duration // bounds for all workspaces
	TokenLongTTL        time.Duration
	TokenMaxTTL         time.Duration
	TokenDefaultMaxUses int
	TokenMaxUses        int

	SignInIdle time.Duration // how long a sign-in lasts without use
	SignInMax  time.Duration // how long it lasts at most

	ReconnectWindow time.Duration // how long a host may be away before it is offline
	HeartbeatRate   int           // heartbeats a second that this replica is willing to take
	AdmissionRate   int           // new links a second that it admits; 0: by its processors
	EnrolmentRate   int           // enrolments a second that it takes

	Limits  Limits
	Cluster Cluster

	TraceEndpoint string  // OTLP over HTTP; empty: no traces
	TraceShare    float64 // of the calls that are traced

	ShutdownTimeout time.Duration
}

// Register declares every setting as a flag; the flag's value is the setting.
func (s *Settings) Register(f *pflag.FlagSet) {
	f.StringVar(&s.File, "config", "", "`FILE` of settings (YAML)")
	f.StringVar(&s.Listen, "listen", ":8443", "`ADDRESS` of the HTTPS port for API, console and agents")
	f.StringVar(&s.MetricsListen, "metrics-listen", "127.0.0.1:9464", "`ADDRESS` of metrics and profiling, or off")
	f.StringVar(&s.DataDir, "data-dir", "/var/lib/loopbackd", "`FOLDER` of keys, database and releases")
	f.StringVar(&s.PublicURL, "public-url", "", "`URL` by which agents and people reach this control plane (default: https, this host's name, the listening port)")
	f.StringVar(&s.TLSCertificate, "tls-certificate", "", "PEM `FILE` of the certificate chain (default: one of a local CA)")
	f.StringVar(&s.TLSKey, "tls-key", "", "PEM `FILE` of the certificate's key")
	f.StringSliceVar(&s.TLSNames, "tls-name", nil, "further `NAME` or address for the local CA's certificate (repeatable)")
	f.StringSliceVar(&s.TrustedProxies, "trusted-proxy", nil, "`NETWORK` whose X-Forwarded-For is believed (repeatable)")
	f.StringVar(&s.Database, "database", "", "SQLite `PATH` or postgres:// URL (default: loopback.db in the data folder)")
	f.StringVar(&s.LogLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	f.StringVar(&s.LogFormat, "log-format", "text", "`FORMAT`: text or json")
	f.DurationVar(&s.TokenDefaultTTL, "token-default-ttl", time.Hour, "life of an enrolment token unless it is minted with another")
	f.DurationVar(&s.TokenLongTTL, "token-long-ttl", 30*24*time.Hour, "life of an enrolment token that is minted as long-lived")
	f.DurationVar(&s.TokenMaxTTL, "token-max-ttl", 90*24*time.Hour, "longest life of an enrolment token")
	f.IntVar(&s.TokenDefaultMaxUses, "token-default-max-uses", 1, "uses of an enrolment token unless it is minted with another number")
	f.IntVar(&s.TokenMaxUses, "token-max-uses", 100_000, "most uses of an enrolment token")
	f.DurationVar(&s.SignInIdle, "sign-in-idle", 12*time.Hour, "how long people stay signed in without doing anything")
	f.DurationVar(&s.SignInMax, "sign-in-max", 7*24*time.Hour, "how long people stay signed in whatever they do")
	f.DurationVar(&s.ReconnectWindow, "reconnect-window", 90*time.Second, "how long a host may be away before it is offline")
	f.IntVar(&s.HeartbeatRate, "heartbeat-rate", 2000, "heartbeats a second that this replica takes; with more hosts they come less often")
	f.IntVar(&s.AdmissionRate, "admission-rate", 0, "new links a second that this replica admits, 0 for 1000 for each processor; the rest are told when to come back")
	f.IntVar(&s.EnrolmentRate, "enrolment-rate", 500, "enrolments a second that this replica takes; the rest are told when to come back")
	s.Limits.register(f)
	s.Cluster.register(f)
	f.StringVar(&s.TraceEndpoint, "trace-endpoint", "", "`URL` of an OpenTelemetry collector (OTLP over HTTP, http://127.0.0.1:4318) that gets traces (default: none are made)")
	f.Float64Var(&s.TraceShare, "trace-share", 0.1, "share of the calls that are traced, 0 to 1; calls that continue a caller's trace follow its choice")
	f.DurationVar(&s.ShutdownTimeout, "shutdown-timeout", 20*time.Second, "how long a shutdown may take; open requests have three quarters of it")
}

// Variable is the environment variable of a flag.
func Variable(flag string) string {
	return "LOOPBACKD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Load completes flags that were parsed already with environment and file, and checks the whole. getenv is os.Getenv
// outside tests.
func (s *Settings) Load(f *pflag.FlagSet, getenv func(string) string) error {
	return s.LoadExcept(f, getenv)
}

// LoadExcept is Load for a command with flags of its own, which are no settings.
func (s *Settings) LoadExcept(f *pflag.FlagSet, getenv func(string) string, own ...string) error {
	var c fault.Check
	if s.File == "" {
		s.File = getenv(Variable("config"))
	}
	file, err := readFile(s.File)
	if err != nil {
		return err
	}
	source := map[string]string{}
	f.VisitAll(func(fl *pflag.Flag) {
		name := fl.Name
		if slices.Contains(own, name) || name == "help" {
			return
		}
		if fl.Changed {
			source[name] = "--" + name
			return
		}
		if v := getenv(Variable(name)); v != "" {
			source[name] = Variable(name)
			if err := fl.Value.Set(v); err != nil {
				c.Add(Variable(name), "is %q: %s", v, plain(err))
			}
		} else if v, ok := file[name]; ok && name != "config" {
			source[name] = s.File + ": " + name
			for _, one := range v {
				if err := fl.Value.Set(one); err != nil {
					c.Add(source[name], "is %q: %s", one, plain(err))
				}
			}
		}
	})
	for name := range file {
		if f.Lookup(name) == nil {
			c.Add(s.File+": "+name, "is not a setting; loopbackd serve --help lists them")
		}
	}
	s.check(&c, func(flag string) string {
		if from, ok := source[flag]; ok {
			return from
		}
		return "--" + flag
	})
	if err := c.Err("settings_invalid", "the settings are not valid"); err != nil {
		return err
	}
	if s.Database == "" {
		s.Database = filepath.Join(s.DataDir, "loopback.db")
	}
	if s.PublicURL == "" {
		s.PublicURL = s.defaultURL()
	}
	s.PublicURL = strings.TrimRight(s.PublicURL, "/")
	s.Cluster.complete()
	return nil
}

func (s *Settings) check(c *fault.Check, at func(flag string) string) {
	if _, port, err := net.SplitHostPort(s.Listen); err != nil || port == "" {
		c.Add(at("listen"), "is %q, not HOST:PORT; for example :8443", s.Listen)
	}
	if s.MetricsListen != "off" {
		if _, _, err := net.SplitHostPort(s.MetricsListen); err != nil {
			c.Add(at("metrics-listen"), "is %q, neither HOST:PORT nor off", s.MetricsListen)
		}
	}
	c.That(s.DataDir != "", at("data-dir"), "is empty; name a folder that survives restarts")
	if s.PublicURL != "" {
		u, err := url.Parse(s.PublicURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
			c.Add(at("public-url"), "is %q, not https://HOST[:PORT]", s.PublicURL)
		}
	}
	c.That((s.TLSCertificate == "") == (s.TLSKey == ""), at("tls-certificate"), "and --tls-key go together; one is missing")
	for _, p := range s.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			c.Add(at("trusted-proxy"), "is %q, not a network like 10.0.0.0/8", p)
		}
	}
	if strings.Contains(s.Database, "://") {
		u, err := url.Parse(s.Database)
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			c.Add(at("database"), "is neither a path nor a postgres:// URL")
		}
	}
	c.That(slices.Contains([]string{"debug", "info", "warn", "error"}, s.LogLevel), at("log-level"), "is %q; allowed are debug, info, warn, error", s.LogLevel)
	c.That(slices.Contains([]string{"text", "json"}, s.LogFormat), at("log-format"), "is %q; allowed are text, json", s.LogFormat)
	c.That(s.TokenDefaultTTL >= time.Minute, at("token-default-ttl"), "is %s, less than a minute", s.TokenDefaultTTL)
	c.That(s.TokenLongTTL >= s.TokenDefaultTTL, at("token-long-ttl"), "is %s, less than token-default-ttl (%s)", s.TokenLongTTL, s.TokenDefaultTTL)
	c.That(s.TokenMaxTTL >= s.TokenLongTTL, at("token-max-ttl"), "is %s, less than token-long-ttl (%s)", s.TokenMaxTTL, s.TokenLongTTL)
	c.That(s.TokenMaxTTL >= s.TokenDefaultTTL, at("token-max-ttl"), "is %s, less than token-default-ttl (%s)", s.TokenMaxTTL, s.TokenDefaultTTL)
	c.That(s.TokenDefaultMaxUses >= 1, at("token-default-max-uses"), "is %d, less than 1", s.TokenDefaultMaxUses)
	c.That(s.TokenMaxUses >= s.TokenDefaultMaxUses, at("token-max-uses"), "is %d, less than token-default-max-uses (%d)", s.TokenMaxUses, s.TokenDefaultMaxUses)
	c.That(s.SignInIdle >= 5*time.Minute, at("sign-in-idle"), "is %s, less than 5m", s.SignInIdle)
	c.That(s.SignInMax >= s.SignInIdle, at("sign-in-max"), "is %s, less than sign-in-idle (%s)", s.SignInMax, s.SignInIdle)
	c.That(s.SignInMax <= 90*24*time.Hour, at("sign-in-max"), "is %s, more than 90 days", s.SignInMax)
	c.That(s.ReconnectWindow >= 10*time.Second && s.ReconnectWindow <= time.Hour, at("reconnect-window"), "is %s; allowed are 10s to 1h", s.ReconnectWindow)
	c.That(s.HeartbeatRate >= 1, at("heartbeat-rate"), "is %d, less than 1", s.HeartbeatRate)
	c.That(s.AdmissionRate >= 0, at("admission-rate"), "is %d, less than 0", s.AdmissionRate)
	c.That(s.EnrolmentRate >= 1, at("enrolment-rate"), "is %d, less than 1", s.EnrolmentRate)
	s.Limits.check(c, at)
	s.Cluster.check(c, at, s.Database)
	if s.TraceEndpoint != "" {
		u, err := url.Parse(s.TraceEndpoint)
		c.That(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", at("trace-endpoint"), "is %q, not http://HOST:PORT or https://HOST:PORT", s.TraceEndpoint)
	}
	c.That(s.TraceShare >= 0 && s.TraceShare <= 1, at("trace-share"), "is %g; allowed are 0 to 1", s.TraceShare)
	c.That(s.ShutdownTimeout > 0, at("shutdown-timeout"), "is %s; it must be more than 0", s.ShutdownTimeout)
}

// CheckFiles finds what only the machine can tell: whether named files are there and the data folder can be used. It
// changes nothing.
func (s *Settings) CheckFiles() error {
	var c fault.Check
	if s.TLSCertificate != "" {
		if _, err := tls.LoadX509KeyPair(s.TLSCertificate, s.TLSKey); err != nil {
			c.Add("--tls-certificate", "and --tls-key cannot be used: %s", err)
		}
	}
	for dir := s.DataDir; ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
			continue // it would be made
		}
		switch {
		case err != nil:
			c.Add("--data-dir", "cannot be used: %s", err)
		case !st.IsDir():
			c.Add("--data-dir", "lies below %s, which is not a folder", dir)
		case unix.Access(dir, unix.W_OK) != nil:
			c.Add("--data-dir", "cannot be written by this user: %s", dir)
		}
		break
	}
	return c.Err("settings_invalid", "the settings do not fit this machine")
}

// RedactedDatabase is the database without its password.
func (s *Settings) RedactedDatabase() string {
	if u, err := url.Parse(s.Database); err == nil && u.Scheme != "" {
		return u.Redacted()
	}
	return s.Database
}

// Proxies are the networks whose X-Forwarded-For is believed. Load has checked them.
func (s *Settings) Proxies() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.TrustedProxies {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func (s *Settings) defaultURL() string {
	host, port, _ := net.SplitHostPort(s.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
		if name, err := os.Hostname(); err == nil && name != "" {
			host = name
		}
	}
	return "https://" + net.JoinHostPort(host, port)
}

// readFile reads a flat YAML mapping; every value becomes the strings that its flag would be given.
func readFile(name string) (map[string][]string, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "settings_unreadable", "the settings file cannot be read").WithCause(err).
			WithHint("check --config and %s", Variable("config"))
	}
	var raw map[string]any
	if err := yaml.Unmarshal(b, &raw); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "settings_unreadable", "the settings file %s is not a YAML mapping", name).WithCause(err)
	}
	out := map[string][]string{}
	for k, v := range raw {
		if list, ok := v.([]any); ok {
			for _, one := range list {
				out[k] = append(out[k], fmt.Sprint(one))
			}
			continue
		}
		out[k] = []string{fmt.Sprint(v)}
	}
	return out, nil
}

// plain is what a flag's parser says, without the names of Go functions.
func plain(err error) string {
	s := err.Error()
	if _, after, ok := strings.Cut(s, "strconv.ParseInt: parsing "); ok {
		return after
	}
	return strings.TrimPrefix(s, "time: ")
}
