// Package diagnose has a host tell what it knows of itself, for people who are to help: a tar archive, compressed with gzip.
//
//	manifest.json   when, which programs, and of each part how large it is, whether it was cut and why it is missing
//	status.json     the agent: link, standing, sections with their revisions, modules with their health
//	doctor.json     what loopback-agent doctor finds
//	agent.yaml      the agent's settings
//	journal.txt     the end of the agent's journal, and of that of the processes that it started
//	network.txt     addresses, routes, resolver, listening sockets, firewall
//	system.txt      distribution, kernel, memory, disks, failed units
//
// Each part is bounded in size and time, and one that cannot be had is said to be missing: a bundle comes of a host in any state.
// Secrets are taken out of every part before it goes anywhere: what looks like a token or a key, private keys, passwords in
// URLs, and the values of settings whose names say that they are secret. That is by how they look, so a bundle is for people
// whom you would show the host's logs.
package diagnose

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/loopbackd/loopback/agent/doctor"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/recording"
)

// Bounds.
const (
	within   = 90 * time.Second
	partTime = 15 * time.Second
	partSize = 4 << 20
)

// Options say what to look at.
type Options struct {
	Version    string
	ConfigPath string
	StateDir   string
	Socket     string
}

// made is what is known of a part.
type made struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Cut   bool   `json:"cut,omitempty"` // its end is not there
	Error string `json:"error,omitempty"`
}

// Bundle is the archive.
func Bundle(ctx context.Context, o Options) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	now := time.Now().UTC()
	manifest := struct {
		At      time.Time `json:"at"`
		Version string    `json:"version"`
		Parts   []made    `json:"parts"`
	}{At: now, Version: strings.TrimSpace(o.Version)}
	add := func(name string, b []byte) error {
		err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: now, Format: tar.FormatPAX})
		if err == nil {
			_, err = archive.Write(b)
		}
		return err
	}
	for _, p := range parts(o) {
		bounded, done := context.WithTimeout(ctx, p.time)
		b, err := p.make(bounded)
		done()
		m := made{Name: p.name}
		if len(b) > partSize {
			b, m.Cut = b[:partSize], true
		}
		b = Redact(b)
		if m.Bytes = len(b); err != nil {
			m.Error = string(Redact([]byte(err.Error())))
		}
		if manifest.Parts = append(manifest.Parts, m); len(b) == 0 {
			continue
		}
		if err := add(p.name, b); err != nil {
			return nil, err
		}
	}
	b, err := json.MarshalIndent(manifest, "", "  ")
	if err == nil {
		err = add("manifest.json", b)
	}
	if err := errors.Join(err, archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// part of a bundle. What make returns beside an error counts.
type part struct {
	name string
	time time.Duration
	make func(context.Context) ([]byte, error)
}

func parts(o Options) []part {
	return []part{
		{"status.json", partTime, func(ctx context.Context) ([]byte, error) {
			r, err := status.Fetch(ctx, o.Socket)
			if err != nil {
				return nil, err
			}
			return json.MarshalIndent(r, "", "  ")
		}},
		{"doctor.json", 45 * time.Second, func(ctx context.Context) ([]byte, error) {
			return json.MarshalIndent(doctor.Run(ctx, doctor.Options{ConfigPath: o.ConfigPath, StateDir: o.StateDir, Socket: o.Socket, Timeout: partTime}), "", "  ")
		}},
		{"agent.yaml", partTime, func(context.Context) ([]byte, error) { return os.ReadFile(o.ConfigPath) }},
		{"journal.txt", partTime, commands("journalctl --no-pager --output=short-iso-precise --lines=5000 --unit=loopback-agent.service --unit=loopback-exec-* --unit=loopback-shell-* --unit=loopback-file-*")},
		{"network.txt", partTime, commands("ip address", "ip -4 route show table all", "ip -6 route show table all", "ip rule", "cat /etc/resolv.conf", "cat /etc/hosts",
			"cat /etc/nsswitch.conf", "ss --tcp --udp --listening --numeric --processes", "nft --stateless list ruleset")},
		{"system.txt", partTime, commands("cat /etc/os-release", "uname --all", "uptime", "cat /proc/meminfo", "df --print-type", "df --inodes", "cat /proc/self/mounts",
			"systemctl --failed --no-pager --plain", "systemctl show --no-pager loopback-agent.service", "timedatectl", "cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io")},
	}
}

// commands run one after the other; what each says stands under its line.
func commands(lines ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		out := &bounded{most: partSize}
		for _, line := range lines {
			words := strings.Fields(line)
			fmt.Fprintf(out, "$ %s\n", line)
			c := exec.CommandContext(ctx, words[0], words[1:]...)
			c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
			c.Stdout, c.Stderr, c.WaitDelay = out, out, time.Second
			if err := c.Run(); err != nil { // which says something, too
				fmt.Fprintf(out, "(%v)\n", err)
			}
			fmt.Fprintln(out)
		}
		return out.Bytes(), ctx.Err()
	}
}

// bounded keeps the beginning of what is written, and one byte more, which tells that there was more.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:max(0, min(len(p), b.most+1-b.Len()))])
	return len(p), nil
}

// secretName is a name in settings, an environment or a header whose value nobody else should see.
const secretName = `[A-Za-z0-9_.-]*(?i:passw(?:or)?d|passphrase|secret|token|private[_-]?key|api[_-]?key|credential|authorization|cookie|psk)[A-Za-z0-9_.-]*`

var (
	inURL   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@"']*@`)
	inPairs = regexp.MustCompile(`((?:\b|["'])` + secretName + `["']?\s*[:=]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|(?i:(?:bearer|basic|digest)\s+)?[^\s,;"']+)`)
	bearers = regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`)
	private = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
)

// hidden stands for what was taken out.
const hidden = "[redacted]"

// Redact takes out what looks like a secret.
func Redact(b []byte) []byte {
	b = private.ReplaceAll(b, []byte(hidden))
	b = inURL.ReplaceAll(b, []byte("${1}"+hidden+"@"))
	b = inPairs.ReplaceAll(b, []byte("${1}"+hidden))
	b = bearers.ReplaceAll(b, []byte("${1}"+hidden))
	return recording.NewRedactor().Add(b, true)
}
