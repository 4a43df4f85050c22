// Package doctor finds out why an agent does not work, and says what to change.
//
// A Check has a stable code, what was seen, and what to change. The codes are those of the errors that the agent itself
// meets, logs and reports as link trouble, so that what a console shows about a host and what doctor says on it are one
// vocabulary. Checks only look: nothing on the host is changed beyond a file that is written to the state folder and
// removed, and nothing is said to the control plane beyond the handshake.
//
// The steps on the way to the control plane come from one real attempt: the first that fails is named, those before it
// went well, those after it could not be tried.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/trust"
)

// Outcome of a check.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"
	Warning Outcome = "warning" // works now, and should be changed all the same
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped" // could not be tried
)

// Check is one thing that was looked at.
type Check struct {
	Name    string  `json:"name"`            // what was looked at: "disk", "dns" …
	About   string  `json:"about,omitempty"` // the folder, file or endpoint
	Outcome Outcome `json:"outcome"`
	Code    string  `json:"code"` // stable; "ok" and "skipped" where nothing is wrong
	Seen    string  `json:"seen"`
	Change  string  `json:"change,omitempty"` // what to do
}

// Options say what to look at.
type Options struct {
	ConfigPath string
	StateDir   string
	Socket     string
	Root       string        // of the file system that the agent is installed in; empty: /
	Timeout    time.Duration // for each endpoint; 0: 40 s
	Dial       link.Dial     // nil: by package wire, as the configuration says
}

// Run looks at everything, in the order in which things build on one another.
func Run(ctx context.Context, o Options) []Check {
	if o.Timeout == 0 {
		o.Timeout = 40 * time.Second
	}
	c, configured := checkConfig(o.ConfigPath)
	out := append([]Check{configured}, checkHost(o)...)
	if configured.Outcome == Failed {
		out = append(out, Check{Name: "endpoints", Outcome: Skipped, Code: "skipped", Seen: "there is no usable configuration that names them"})
	} else {
		for _, endpoint := range c.Endpoints {
			out = append(out, checkEndpoint(ctx, o, c, endpoint)...)
		}
	}
	// Last: what the agent has to say is of a moment ago, what was tried above is of now.
	return append(out, checkAgent(ctx, o.Socket))
}

// checkHost looks at all but the configuration and the way to the control plane.
func checkHost(o Options) []Check {
	out := checkState(o.StateDir)
	out = append(out, checkDisk(o.StateDir))
	return append(out, checkMachine(o.Root)...)
}

// Troubles is what is wrong with this host itself, as an agent that has a way tells its control plane. Nobody is asked.
func Troubles(o Options) []host.Trouble {
	_, configured := checkConfig(o.ConfigPath)
	now := time.Now()
	var out []host.Trouble
	for _, c := range append([]Check{configured}, checkHost(o)...) {
		if c.Outcome == Failed || c.Outcome == Warning {
			out = append(out, host.Trouble{Code: c.Code, Message: c.About + ": " + c.Seen, At: now})
		}
	}
	return out
}

// Healthy tells whether nothing failed.
func Healthy(checks []Check) bool {
	for _, c := range checks {
		if c.Outcome == Failed {
			return false
		}
	}
	return true
}

// failed is a check that ended with an error; about what is wrong, it says what the error says.
func failed(name, about string, err error) Check {
	var f *fault.Error
	if !errors.As(err, &f) {
		f = fault.New(fault.Internal, name+"_failed", "%s", err)
	}
	return Check{Name: name, About: about, Outcome: Failed, Code: f.Code, Seen: f.Error(), Change: f.Hint}
}

func fine(name, about, format string, args ...any) Check {
	return Check{Name: name, About: about, Outcome: OK, Code: "ok", Seen: fmt.Sprintf(format, args...)}
}

// checkState looks at who may read the state, and at the identity.
func checkState(dir string) []Check {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Check{{Name: "permissions", About: dir, Outcome: Failed, Code: "state_missing", Seen: "there is no state folder",
			Change: "install the agent with a token: loopback-agent install"}}
	case errors.Is(err, fs.ErrPermission):
		return []Check{{Name: "permissions", About: dir, Outcome: Skipped, Code: "skipped", Seen: "only root may look", Change: "run the doctor as root"}}
	case err != nil:
		return []Check{failed("permissions", dir, err)}
	}
	permissions := fine("permissions", dir, "mode %04o", info.Mode().Perm())
	if info.Mode().Perm()&0o077 != 0 {
		permissions = Check{Name: "permissions", About: dir, Outcome: Failed, Code: "state_permission",
			Seen:   fmt.Sprintf("the mode is %04o: others than root may read the host's key", info.Mode().Perm()),
			Change: "chmod 700 " + dir + "; if others had access to this host, remove it in the control plane and install it again"}
	}
	i, err := state.ReadIdentity(dir)
	if err != nil {
		return []Check{permissions, failed("identity", dir, err)}
	}
	if !i.Enrolled() {
		return []Check{permissions, failed("identity", dir, state.ErrNoIdentity)}
	}
	return []Check{permissions, fine("identity", dir, "%s (%s), key generation %d", i.HostID, i.HostName, i.Generation)}
}

// Space below which the disk is said to be full, or nearly.
const (
	leastSpace = 16 << 20
	lowSpace   = 128 << 20
)

// checkDisk looks at the space for the state, and writes a file to it.
func checkDisk(dir string) Check {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Check{Name: "disk", About: dir, Outcome: Skipped, Code: "skipped", Seen: "cannot be looked at: " + err.Error()}
	}
	free, inodes := int64(st.Bavail)*st.Bsize, int64(st.Ffree)
	seen := fmt.Sprintf("%d MiB free", free>>20)
	change := "free some space on this file system: du -xh --max-depth=2 /var | sort -h"
	switch {
	case free < leastSpace:
		return Check{Name: "disk", About: dir, Outcome: Failed, Code: "disk_full", Seen: seen, Change: change}
	case st.Files > 0 && inodes < 16:
		return Check{Name: "disk", About: dir, Outcome: Failed, Code: "inodes_full", Seen: fmt.Sprintf("%s, but only %d inodes", seen, inodes),
			Change: "remove files that are not needed: du --inodes -x -d2 /var | sort -n | tail"}
	case st.Flags&unix.ST_RDONLY != 0:
		return Check{Name: "disk", About: dir, Outcome: Failed, Code: "disk_read_only", Seen: "the file system is mounted read-only",
			Change: "see dmesg for errors of the disk, repair it and mount it writable"}
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		_, err = f.WriteString("written by loopback-agent doctor\n")
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return Check{Name: "disk", About: dir, Outcome: Skipped, Code: "skipped", Seen: seen + "; only root may write", Change: "run the doctor as root"}
	case err != nil:
		return Check{Name: "disk", About: dir, Outcome: Failed, Code: "disk_unwritable", Seen: seen + "; a file cannot be written: " + err.Error(), Change: change}
	case free < lowSpace:
		return Check{Name: "disk", About: dir, Outcome: Warning, Code: "disk_low", Seen: seen, Change: change}
	}
	return fine("disk", dir, "%s, writable", seen)
}

// checkAgent asks the agent that runs.
func checkAgent(ctx context.Context, socket string) Check {
	r, err := status.Fetch(ctx, socket)
	switch {
	case err != nil:
		c := failed("agent", socket, err)
		if errors.Is(err, status.ErrNotRunning) {
			c.Seen = "no agent answers"
		}
		return c
	case r.OK:
		return fine("agent", socket, "version %s, linked, everything applied", r.Version)
	}
	c := Check{Name: "agent", About: socket, Outcome: Warning, Code: "agent_not_ok", Seen: r.Reason}
	if r.LastError != nil && r.State != string(link.Linked) {
		c.Code, c.Change = r.LastError.Code, r.LastError.Hint
	}
	return c
}

// step is the place of a failure on the way to the control plane.
func step(code string) int {
	switch {
	case strings.HasPrefix(code, "dns_"):
		return 0
	case strings.HasPrefix(code, "connect_"), strings.HasPrefix(code, "proxy_"), code == "no_route", code == "endpoint_invalid":
		return 1
	case strings.HasPrefix(code, "tls_"), strings.HasPrefix(code, "ca_file"):
		return 2
	}
	return 3
}

// checkEndpoint makes one attempt at a link, short of saying hello.
func checkEndpoint(ctx context.Context, o Options, c config.Config, endpoint string) []Check {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	dial := o.Dial
	if dial == nil {
		dial = link.Dialler(c)
	}
	anchors, seen := []trust.AnchorHash{c.Anchor}, uint64(0)
	if known, err := state.ReadTrust(o.StateDir, c.Anchor); err == nil {
		anchors, seen = known.Anchors, known.Version
	}
	conn, err := dial(ctx, endpoint, anchors, seen)
	names := [...]string{"dns", "connect", "tls", "link"}
	at := len(names)
	if err != nil {
		at = step(fault.Of(err).Code)
	}
	var out []Check
	for i, name := range names {
		switch {
		case i < at:
			out = append(out, fine(name, endpoint, "%s", went(ctx, name, c, endpoint, conn)))
		case i == at:
			out = append(out, failed(name, endpoint, err))
		default:
			out = append(out, Check{Name: name, About: endpoint, Outcome: Skipped, Code: "skipped", Seen: "not tried, because " + names[at] + " failed"})
		}
	}
	if conn != nil {
		if f := conn.Fallback(); f != nil {
			blocked := failed("websocket", endpoint, f)
			blocked.Outcome = Warning
			out = append(out, blocked)
		}
		_ = conn.Close() // a handshake only; nothing was said
		out = append(out, checkTime(ctx, c, endpoint)...)
	}
	return append(out, checkClock(ctx, c, endpoint))
}

// went says what was seen of a step that went well.
func went(ctx context.Context, name string, c config.Config, endpoint string, conn link.Conn) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "went well"
	}
	switch name {
	case "dns":
		host := u.Hostname()
		if p := proxyOf(c, u); p != nil {
			host = p.Hostname()
		}
		addresses, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return "went well"
		}
		return host + " is " + strings.Join(addresses, ", ")
	case "connect":
		if p := proxyOf(c, u); p != nil {
			return "connected through the proxy " + p.Host
		}
		return "connected"
	case "tls":
		if c.CAFile != "" {
			return "the certificate is trusted by " + c.CAFile
		}
		return "the certificate is trusted by this system"
	}
	return "the control plane proved itself by the anchor; by " + conn.Transport()
}

func proxyOf(c config.Config, u *url.URL) *url.URL {
	proxy := link.Proxy(c)
	if proxy == nil {
		return nil
	}
	p, err := proxy(&http.Request{URL: u})
	if err != nil {
		return nil
	}
	return p
}

// behind puts the control plane's time minus ours in words.
func behind(skew time.Duration) string {
	if skew < 0 {
		return fault.Roughly(-skew) + " ahead of the control plane's"
	}
	return fault.Roughly(skew) + " behind the control plane's"
}

// checkTime warns of a certificate that was let in although its time is over, or has not come by this host's clock.
func checkTime(ctx context.Context, c config.Config, endpoint string) []Check {
	outer, err := link.TLS(c)
	if err != nil {
		return nil
	}
	conn, err := link.Open(c, outer, endpoint)(ctx)
	if err == nil {
		_ = conn.Close() // nothing was said
		return nil
	}
	if fault.Of(err).Code != link.ErrCertificateTime.Code {
		return nil // something that comes and goes: the link itself was just made
	}
	late := failed("certificate", endpoint, err)
	late.Outcome = Warning
	return []Check{late}
}

// checkClock compares this host's clock with the time that the endpoint's answers carry.
func checkClock(ctx context.Context, c config.Config, endpoint string) Check {
	outer, err := link.TLS(c)
	if err != nil {
		return Check{Name: "clock", About: endpoint, Outcome: Skipped, Code: "skipped", Seen: "the control plane's time is not known"}
	}
	outer.InsecureSkipVerify = true // a wrong clock makes good certificates look bad; only the Date is read, nothing is sent
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := link.Open(c, outer, endpoint)(ctx)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimRight(endpoint, "/")+"/healthz", nil)
	if err != nil {
		return failed("clock", endpoint, err)
	}
	sent := time.Now()
	answer, err := client.Do(r)
	if err != nil {
		return Check{Name: "clock", About: endpoint, Outcome: Skipped, Code: "skipped", Seen: "the control plane's time is not known, since it does not answer"}
	}
	_ = answer.Body.Close()
	date, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return Check{Name: "clock", About: endpoint, Outcome: Skipped, Code: "skipped", Seen: "what answers does not tell the time"}
	}
	skew := date.Sub(sent.Add(time.Since(sent) / 2)).Round(time.Second)
	if skew.Abs() > link.MaxSkew {
		return Check{Name: "clock", About: endpoint, Outcome: Failed, Code: link.ErrSkew.Code,
			Seen: fmt.Sprintf("this host's clock is %s", behind(skew)), Change: link.ErrSkew.Hint}
	}
	return fine("clock", endpoint, "within %s of the control plane's", max(skew.Abs(), time.Second))
}
