// Package config is what the host's own administrator tells the agent: /etc/loopback/agent.yaml.
//
//	endpoints: [https://loopback.example.com:8443]   # tried in this order
//	anchor: 3f1c…                                     # whom to trust: 32 hexadecimal digits
//	allow: {exec: true, modules: [lbfw]}              # the ceiling
//
// The file says where the control plane is, how to know it (the anchor's hash, and where the outer TLS certificate is
// not publicly trusted, a CA file), how to get there (proxy, transport), and what the control plane may ever do here:
// the ceiling under allow. The control plane can neither read past that ceiling nor raise it; nothing that arrives over
// the link changes this file. What is not allowed is forbidden.
//
// Reading is strict. A name that is not a setting, a name given twice and a value that makes no sense are all refused,
// and all of them at once, each with its line: an agent that ran with half of its settings would be worse than one that
// says what is wrong and does not start. Saving changes only the lines whose value changed, so that comments survive.
package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/trust"
)

// DefaultPath of the file.
const DefaultPath = "/etc/loopback/agent.yaml"

// Ways to carry the link.
const (
	Auto      = "auto"      // WebSocket, and polling where that does not get through
	WebSocket = "websocket" // only WebSocket
	Poll      = "poll"      // only long polling over HTTPS
)

// Bounds of the interval at which the identity key is replaced.
const (
	MinKeyRotation     = time.Second
	MaxKeyRotation     = 10 * 365 * 24 * time.Hour
	DefaultKeyRotation = 30 * 24 * time.Hour
)

// maxSize of the file. Nothing that a person writes here comes near.
const maxSize = 256 << 10

// Config is the file's contents. Parse fills every field with its default.
type Config struct {
	Endpoints   []string         // https://host[:port], in the order in which they are tried
	CAFile      string           // PEM file that the endpoints' certificates are checked by; empty: the system's
	Anchor      trust.AnchorHash // hash of the deployment's anchor key
	Proxy       string           // http[s]://[user:password@]host:port by which the endpoints are reached; empty: directly
	Mirror      string           // http[s]://host[:port]/path of a copy of the releases; empty: the control plane's
	NoProxy     []string         // host names, .domains and networks that are reached directly in spite of Proxy
	LogLevel    string           // debug, info, warn or error; empty: as the control plane's settings say
	Verbose     bool             // log what the link does, as it does it
	Transport   string           // Auto, WebSocket or Poll
	KeyRotation time.Duration    // how old the identity key may get
	Allow       host.Ceiling     // the ceiling; the zero value allows nothing
}

// Default is the configuration of an empty file. It allows nothing.
func Default() Config {
	return Config{Transport: Auto, KeyRotation: DefaultKeyRotation, Allow: host.Ceiling{Modules: []string{}}}
}

// ErrMissing says that there is no configuration file.
var ErrMissing = fault.New(fault.Precondition, "config_missing", "there is no configuration file").
	WithHint("install the agent with a token first: loopback-agent install")

// Read reads the file and checks that it says all that an agent needs in order to run.
func Read(path string) (Config, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, ErrMissing.WithCause(err)
	case err != nil:
		return Config{}, fault.New(fault.Precondition, "config_unreadable", "the configuration file cannot be read").
			WithHint("the agent runs as root; check the owner and mode of %s", path).WithCause(err)
	}
	c, err := Parse(path, text)
	if err != nil {
		return Config{}, err
	}
	return c, c.Complete(path)
}

// Complete says whether the two settings without a default are there. A package may lay down a file without endpoints,
// for the installer to fill in.
func (c Config) Complete(path string) error {
	var check fault.Check
	check.That(len(c.Endpoints) > 0, "endpoints", "is missing; give the control plane's address: endpoints: [https://loopback.example.com:8443]")
	check.That(c.Anchor != trust.AnchorHash{}, "anchor", "is missing; it is shown by `loopback token mint` and set by the installer")
	return check.Err("config_incomplete", "%s is not complete", path)
}

// Save writes c to path (mode 0600: a proxy's password may be in it) such that a power cut leaves the old file or the
// new one. Settings in an existing file that already have c's value keep their line and comments. It tells whether
// anything changed.
func (c Config) Save(path string) (changed bool, err error) {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the configuration file: %w", err)
	}
	text, err := c.edit(path, old)
	if err != nil {
		return false, err
	}
	if old != nil && string(text) == string(old) {
		return false, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("make the configuration folder: %w", err)
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return false, fmt.Errorf("write the configuration file: %w", err)
	}
	return true, nil
}

var moduleName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// The checks of single values. Each returns what is wrong, or nothing.

func wrongEndpoint(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return fmt.Sprintf("is %q, not a URL; write https://loopback.example.com:8443", s)
	case u.Scheme != "https":
		return fmt.Sprintf("is %q; the control plane is reached by https only", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Sprintf("is %q; give only scheme, host and port", u.Redacted())
	}
	return ""
}

func wrongProxy(s string) string {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return ""
	case err != nil || u.Hostname() == "":
		return "is not a URL; write http://proxy.example.com:3128" // not repeated here: it may hold a password
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("has the scheme %q; http and https proxies are supported", u.Scheme)
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "has more than scheme, credentials, host and port"
	}
	return ""
}

func wrongMirror(s string) string {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return ""
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("is %q, not a URL; write https://files.example.com/loopback", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Sprintf("is %q; give only scheme, host, port and path", u.Redacted())
	}
	return ""
}

func wrongNoProxy(s string) string {
	if s == "" || strings.ContainsAny(s, " ,\t\n") {
		return fmt.Sprintf("is %q; give one host name, .domain or network in each entry", s)
	}
	return ""
}

func wrongModule(s string) string {
	if s != "*" && !moduleName.MatchString(s) {
		return fmt.Sprintf("is %q, not a module name (lower-case letters, digits and '-'), nor \"*\" for any", s)
	}
	return ""
}

func wrongCAFile(s string) string {
	if s != "" && !filepath.IsAbs(s) {
		return fmt.Sprintf("is %q; give an absolute path", s)
	}
	return ""
}

func wrongLogLevel(s string) string {
	if s != "" && !slices.Contains(settings.LogLevels, s) {
		return fmt.Sprintf("is %q; allowed are %s", s, strings.Join(settings.LogLevels, ", "))
	}
	return ""
}

func wrongTransport(s string) string {
	if s != Auto && s != WebSocket && s != Poll {
		return fmt.Sprintf("is %q; allowed are %s, %s, %s", s, Auto, WebSocket, Poll)
	}
	return ""
}

func parseAnchor(s string) (a trust.AnchorHash, wrong string) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(a) {
		return a, fmt.Sprintf("is %q; an anchor is %d hexadecimal digits, and quoted", s, 2*len(a))
	}
	return trust.AnchorHash(b), ""
}

func parseKeyRotation(s string) (time.Duration, string) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Sprintf("is %q, not a duration; write 720h", s)
	case d < MinKeyRotation || d > MaxKeyRotation:
		return 0, fmt.Sprintf("is %s; allowed are %s to %s", d, MinKeyRotation, MaxKeyRotation)
	}
	return d, ""
}
