package install

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

var errNoEndpoint = fault.New(fault.Invalid, "endpoint_missing", "there is no control plane's address to install from").
	WithHint("give --endpoint https://HOST:PORT, or use the install script that the control plane serves")

// settle works out the settings: those of agent.yaml, and what was asked for where they say nothing else. It returns what
// they were.
func (r *run) settle() (before config.Config, err error) {
	path := r.layout.Config()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, problem("read "+path, err)
	}
	if before, err = config.Parse(path, text); err != nil {
		return config.Config{}, err
	}
	c := before
	c.Endpoints = slices.Clone(before.Endpoints)
	if r.Endpoint = strings.TrimSuffix(r.Endpoint, "/"); r.Endpoint != "" && !slices.Contains(c.Endpoints, r.Endpoint) {
		c.Endpoints = append([]string{r.Endpoint}, c.Endpoints...)
	}
	if len(c.Endpoints) == 0 {
		return config.Config{}, errNoEndpoint
	}
	if err := r.settleTrust(&c); err != nil {
		return config.Config{}, err
	}
	if err := r.settleProxy(&c); err != nil {
		return config.Config{}, err
	}
	if r.Mirror == "none" {
		c.Mirror = ""
	} else if r.Mirror != "" {
		c.Mirror = strings.TrimRight(r.Mirror, "/")
	}
	c.Verbose = c.Verbose || r.Verbose
	for _, a := range []struct {
		to   *bool
		from *bool
	}{{&c.Allow.Exec, r.Allow.Exec}, {&c.Allow.Shell, r.Allow.Shell}, {&c.Allow.Files, r.Allow.Files}, {&c.Allow.Power, r.Allow.Power}} {
		if a.from != nil {
			*a.to = *a.from
		}
	}
	if r.Name == "" {
		if r.Name, err = os.Hostname(); err != nil {
			return config.Config{}, fault.New(fault.Precondition, "host_name_unknown", "this host has no name").WithHint("give --name").WithCause(err)
		}
	}
	r.config = c
	return before, r.rehearse(text)
}

// settleTrust decides whom to trust. A host that is enrolled stays with its deployment, whose anchor may have moved on
// since agent.yaml was written.
func (r *run) settleTrust(c *config.Config) error {
	switch {
	case c.Anchor == (trust.AnchorHash{}):
		c.Anchor = r.Anchor
	case r.Anchor != (trust.AnchorHash{}) && r.Anchor != c.Anchor && !r.hasKey:
		return fault.New(fault.Precondition, "anchor_conflict", "%s trusts another control plane than the one that is installed from", r.layout.Config()).
			WithHint("to move this host: loopback-agent uninstall --purge, then install again")
	}
	ours := r.layout.inside(r.layout.CAFile())
	if r.CAFile == "" {
		return nil
	}
	if c.CAFile == "" {
		c.CAFile = ours
	} else if c.CAFile != ours {
		r.CAFile = "" // the host's administrator chose another one
	}
	return nil
}

// Errors of a proxy that is given in a way that others can read.
var (
	errProxyArgument = fault.New(fault.Invalid, "proxy_exposed", "a proxy's password on the command line can be read by everybody on this host").
				WithHint("change it; give the URL in HTTPS_PROXY, or with --proxy-file FILE")
	errProxyFile = fault.New(fault.Invalid, "proxy_exposed", "the file with the proxy's URL can be read by others than its owner").
			WithHint("change the password; give the file the mode 0600")
)

// hasPassword tells whether a URL carries one.
func hasPassword(proxy string) bool {
	if !strings.Contains(proxy, "://") {
		proxy = "http://" + proxy
	}
	u, err := url.Parse(proxy)
	if err != nil {
		return strings.Contains(proxy, "@")
	}
	_, has := u.User.Password()
	return has
}

// readProxyFile is the URL in a file that nobody else can read.
func readProxyFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", problem("read the proxy's URL from "+path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", problem("read the proxy's URL from "+path, err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", errProxyFile
	}
	text, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return "", problem("read the proxy's URL from "+path, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// settleProxy captures what this shell reaches the world by: the agent, started by systemd, has no such environment.
func (r *run) settleProxy(c *config.Config) (err error) {
	if r.Proxy == "none" {
		c.Proxy, c.NoProxy = "", nil
		return nil
	}
	if r.ProxyFile != "" {
		if r.Proxy, err = readProxyFile(r.ProxyFile); err != nil {
			return err
		}
	}
	proxy, list := r.Proxy, ""
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		if proxy == "" {
			proxy = r.getenv(name)
		}
	}
	if proxy == "" {
		return nil
	}
	if !strings.Contains(proxy, "://") {
		proxy = "http://" + proxy
	}
	c.Proxy = strings.TrimSuffix(proxy, "/")
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if list == "" {
			list = r.getenv(name)
		}
	}
	for entry := range strings.SplitSeq(list, ",") {
		if entry = strings.TrimSpace(entry); entry != "" && !slices.Contains(c.NoProxy, entry) {
			c.NoProxy = append(slices.Clone(c.NoProxy), entry)
		}
	}
	return nil
}

// rehearse writes the settings to nowhere, so that what is wrong with them is said before anything is changed.
func (r *run) rehearse(text []byte) error {
	dir, err := os.MkdirTemp("", "loopback-settings-")
	if err != nil {
		return problem("check the settings", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "agent.yaml")
	if text != nil {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return problem("check the settings", err)
		}
	}
	if _, err := r.config.Save(path); err != nil {
		return err
	}
	if r.DryRun && r.config.Anchor == (trust.AnchorHash{}) {
		return nil // it comes with the token
	}
	return r.config.Complete(r.layout.Config())
}

// saveSettings writes the settings and the CA.
func (r *run) saveSettings() error {
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return errCAFile.WithCause(err)
		}
		changed, err := replace(r.layout.CAFile(), pem, 0o644)
		if err != nil {
			return err
		}
		if changed {
			r.changed, r.result.Changed = true, true
			r.step("wrote %s", r.layout.CAFile())
		}
	}
	changed, err := r.config.Save(r.layout.Config())
	if err != nil {
		return problem("write "+r.layout.Config(), err)
	}
	if changed {
		r.changed, r.result.Changed = true, true
		r.step("wrote %s", r.layout.Config())
	}
	r.layout.relabel(filepath.Dir(r.layout.Config()))
	return nil
}

func sameConfig(a, b config.Config) bool { return reflect.DeepEqual(a, b) }

// endpoint is the one that is installed from.
func (r *run) endpoint() string {
	if r.Endpoint != "" {
		return r.Endpoint
	}
	return r.config.Endpoints[0]
}

var errCAFile = fault.New(fault.Precondition, "ca_file_unusable", "the CA file cannot be used").
	WithHint("give a PEM file with the control plane's CA certificate, or none where its certificate is publicly trusted")

// caFile is the CA that the control plane's certificate is checked by; empty where it is publicly trusted.
func (r *run) caFile() string {
	if r.CAFile != "" || r.config.CAFile == "" {
		return r.CAFile
	}
	if r.config.CAFile != r.layout.inside(r.layout.CAFile()) {
		return r.config.CAFile
	}
	return r.layout.at(r.config.CAFile)
}

// connect makes the client that reaches the control plane as the agent will.
func (r *run) connect() error {
	path := r.caFile()
	outer := &tls.Config{MinVersion: tls.VersionTLS12, Time: r.clock}
	if path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return errCAFile.WithCause(err)
		}
		outer.RootCAs = x509.NewCertPool()
		if !outer.RootCAs.AppendCertsFromPEM(pem) {
			return errCAFile
		}
	}
	transport := &http.Transport{MaxResponseHeaderBytes: 64 << 10}
	transport.DialTLSContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := r.open(r.config, outer, "https://"+address)(ctx)
		if err != nil {
			return nil, err // and no *tls.Conn that is nil
		}
		return conn, nil
	}
	r.client = &http.Client{Transport: transport}
	return nil
}
