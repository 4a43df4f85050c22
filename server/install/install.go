// Package install serves /install.sh: a script for POSIX shells that brings this control plane's agent to a host.
//
// The script carries all that the rest is verified against: the control plane's address and CA, the hash of its anchor,
// the root of the releases, and for each platform the program's path, length and SHA-256. So whoever got the true script
// gets the true agent, through any mirror or proxy; whoever can rewrite the script owns the host, which is why the
// command that is shown pins the server's key where its certificate is not publicly trusted.
//
// The script only detects, fetches and verifies; `loopback-agent install` does the rest, and verifies the releases'
// signatures itself. All of the script stands within one pair of braces: a shell that gets only a part of it finds an
// error in its syntax and runs nothing.
//
// A channel or version that there is nothing for is answered with a script, too, one that says so and fails: a shell that
// was fed nothing at all would report success.
package install

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/trust"
)

// Releases is the repository as the script needs it.
type Releases interface {
	// Resolve finds the targets of a version of a program, or of the newest on the channel.
	Resolve(program, channel, version string) ([]release.Target, error)
	// Root is the newest root metadata; nil before anything was published.
	Root() []byte
}

// Options of a Service.
type Options struct {
	URL      string // of this control plane as hosts reach it: "https://loopback.example.com:8443"
	CA       func() []byte
	Pin      func() []byte // SHA-256 of the server's public key; nil or empty: its certificate is publicly trusted
	Anchor   func() trust.AnchorHash
	Releases Releases
}

// Service answers requests for the script and makes the commands that fetch it.
type Service struct {
	options Options
	url     string
}

var plainURL = regexp.MustCompile(`^https://[A-Za-z0-9.:\[\]_-]+$`)

// New checks the address: it becomes part of a script that runs as root.
func New(o Options) (*Service, error) {
	s := &Service{options: o, url: strings.TrimRight(o.URL, "/")}
	u, err := url.Parse(s.url)
	if err != nil || u.Hostname() == "" || u.Path != "" || !plainURL.MatchString(s.url) {
		return nil, fault.New(fault.Invalid, "public_url_invalid", "the address that hosts reach this control plane by is %q", o.URL).
			WithHint("give scheme, host and port only: https://loopback.example.com:8443")
	}
	if s.options.CA == nil {
		s.options.CA = func() []byte { return nil }
	}
	if s.options.Pin == nil {
		s.options.Pin = func() []byte { return nil }
	}
	return s, nil
}

// Command is how to install an agent.
type Command struct {
	Line      string // for a root shell that has LOOPBACK_TOKEN in its environment
	URL       string // of the script
	PinnedKey string // SHA-256 of the server's public key in base 64; empty where its certificate is publicly trusted
}

// Command makes the command for a channel and version; both may be empty. What is not published yet is no error: the
// script will say so.
func (s *Service) Command(channel, version string) (Command, error) {
	if channel != "" && channel != release.Stable && channel != release.Preview {
		return Command{}, fault.New(fault.Invalid, "channel_unknown", "there is no such release channel").WithHint("the channels are stable and preview")
	}
	if version != "" && !release.ValidVersion(version) {
		return Command{}, fault.New(fault.Invalid, "version_invalid", "that is not a version").WithHint("a version looks like 1.2.3 or 1.2.3-rc.1")
	}
	query := url.Values{}
	if channel != "" {
		query.Set("channel", channel)
	}
	if version != "" {
		query.Set("version", version)
	}
	c := Command{URL: s.url + "/install.sh"}
	if len(query) > 0 {
		c.URL += "?" + query.Encode()
	}
	shown := c.URL
	if len(query) > 0 {
		shown = quote(shown) // & and ? mean something to shells
	}
	if pin := s.options.Pin(); len(pin) > 0 {
		c.PinnedKey = base64.StdEncoding.EncodeToString(pin)
		c.Line = fmt.Sprintf("curl -fsSLk --pinnedpubkey sha256//%s %s | sh", c.PinnedKey, shown)
	} else {
		c.Line = fmt.Sprintf("curl -fsSL %s | sh", shown)
	}
	return c, nil
}

// ServeHTTP answers /install.sh with the script for the channel and version in the query.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/install.sh" {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		return
	}
	script, err := s.Script(r.URL.Query().Get("channel"), r.URL.Query().Get("version"))
	if err != nil {
		script = refusal(fault.Of(err))
	}
	w.Header().Set("Content-Type", "text/x-shellscript; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", fmt.Sprint(len(script)))
	_, _ = w.Write(script) // whoever hung up will ask again
}

//go:embed install.sh
var source string

var script = template.Must(template.New("install.sh").Delims("@{", "}@").Funcs(template.FuncMap{"quote": quote}).Parse(source))

type values struct {
	URL, Anchor, CA, Root, Version, Channel string
	Pinned                                  bool
	Platforms                               []platform
}

type platform struct {
	Name, Path, SHA256 string
	Length             int64
}

// Script renders the script. The version is the newest on the channel where it is empty.
func (s *Service) Script(channel, version string) ([]byte, error) {
	targets, err := s.options.Releases.Resolve(release.Agent, channel, version)
	if err != nil {
		return nil, err
	}
	anchor := s.options.Anchor()
	v := values{
		URL: s.url, Anchor: hex.EncodeToString(anchor[:]), CA: strings.TrimSpace(string(s.options.CA())),
		Root: strings.TrimSpace(string(s.options.Releases.Root())), Version: targets[0].Version, Channel: channel, Pinned: version != "",
	}
	for _, t := range targets {
		if t.OS != "linux" {
			continue
		}
		sum := hex.EncodeToString(t.SHA256)
		dir, name := t.Path[:strings.LastIndexByte(t.Path, '/')+1], t.Path[strings.LastIndexByte(t.Path, '/')+1:]
		v.Platforms = append(v.Platforms, platform{t.Architecture, dir + sum + "." + name, sum, t.Length})
	}
	slices.SortFunc(v.Platforms, func(a, b platform) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	if err := script.Execute(&out, v); err != nil {
		return nil, fmt.Errorf("render the install script: %w", err)
	}
	return out.Bytes(), nil
}

// refusal is a script that says why and fails.
func refusal(e *fault.Error) []byte {
	message, hint := e.Message, e.Hint
	if e.Kind == fault.Internal {
		message, hint = "the control plane cannot make the install script just now", "see its log"
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n{\nprintf '%s\\n' " + quote("loopback: "+message) + " >&2\n")
	if hint != "" {
		b.WriteString("printf '%s\\n' " + quote("hint: "+hint) + " >&2\n")
	}
	b.WriteString("exit 1\n}\n")
	return []byte(b.String())
}

// quote makes one word of a shell out of anything.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
