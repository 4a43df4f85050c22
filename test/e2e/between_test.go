package e2e

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
	"github.com/loopbackd/loopback/test/lab"
)

// Hosts get through what companies really have between: a balancer that ends TLS, one that knows no WebSocket, and
// proxies that want to know who asks. nginx and squid are Debian's.
func TestThroughRealProxies(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"/usr/sbin/nginx", "/usr/sbin/squid"} {
		if _, err := os.Stat(program); err != nil {
			t.Fatalf("missing: %s (make prepare)", program)
		}
	}
	n := newNetwork(t, "e2e-proxies")
	address := n.HostAddress()
	company := &middle{}
	company.issue(t, address)

	front := port(t, address)
	w := &world{network: n, machines: map[string]*lab.Machine{}}
	booted := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	names := []string{"balanced", "polling", "basic", "digest", "denied"}
	go func() { booted <- w.boot(ctx, names...) }()
	w.ControlPlane = controlplane.Start(t, controlplane.Options{
		Address: address, PublicURL: fmt.Sprintf("https://%s:%d", address, front), CAFile: company.caFile(),
		Args: []string{"--tls-certificate", company.certificate, "--tls-key", company.key, "--trusted-proxy", address.String() + "/32"},
	})
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	mute := port(t, address)
	startNginx(t, company, address, w.URL, map[uint16]bool{front: true, mute: false})
	basic, digest := port(t, address), port(t, address)
	startSquid(t, address, basic, "basic")
	startSquid(t, address, digest, "digest")
	direct, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	own := mustPort(t, direct.Port())
	for _, name := range names {
		m := w.machines[name]
		if err := m.PutFile(t.Context(), "/usr/local/share/ca-certificates/company.crt", strings.NewReader(string(company.authority)), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, m, "update-ca-certificates")
	}

	managed := func(t *testing.T, name, transport string) {
		t.Helper()
		w.AwaitState(t, name, "managed", 20*time.Second)
		if s := status(t, w.machines[name]); !s.OK || s.Transport != transport {
			t.Errorf("the agent: got %+v, wanted it well, by %s", s, transport)
		}
	}
	t.Run("a balancer that ends TLS", func(t *testing.T) {
		m := w.machines["balanced"]
		if err := m.Reject(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		w.enrol(t, "balanced")
		managed(t, "balanced", "websocket")
	})
	t.Run("one that knows no WebSocket", func(t *testing.T) {
		m := w.machines["polling"]
		if err := m.Reject(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		token := w.Mint(t)
		if r := install(t, m, token.InstallCommand, token.Secret, fmt.Sprintf("--endpoint https://%s:%d", address, mute)); r.ExitCode != 0 {
			t.Fatalf("exit code %d\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		managed(t, "polling", "poll")
	})
	for name, at := range map[string]uint16{"basic": basic, "digest": digest} {
		t.Run("a proxy that wants "+name, func(t *testing.T) {
			m := w.machines[name]
			if err := m.Reject(t.Context(), own, front, mute); err != nil {
				t.Fatal(err)
			}
			proxy := fmt.Sprintf("http://agent:s3cret%%40x@%s:%d", address, at)
			token := w.Mint(t)
			// By the environment, or by a file that nobody else can read.
			var words []string
			through := "export https_proxy='" + proxy + "' && " + strings.Replace(token.InstallCommand, "curl -fsSL", "curl -fsSL --proxy-anyauth", 1)
			if name == "digest" {
				run(t, m, "umask 077 && echo '"+proxy+"' > /root/proxy")
				through = strings.Replace(through, "| sh", "| env -u https_proxy sh", 1)
				words = []string{"--proxy-file", "/root/proxy"}
			}
			if r := install(t, m, through, token.Secret, words...); r.ExitCode != 0 {
				t.Fatalf("exit code %d\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
			}
			managed(t, name, "websocket")
			if leaked := run(t, m, "grep -rl 's3cret' /proc/[0-9]*/cmdline 2>/dev/null; journalctl --no-pager | grep -c s3cret; stat -c %a /etc/loopback/agent.yaml"); !strings.HasSuffix(strings.TrimSpace(leaked.Stdout), "0\n600") {
				t.Errorf("the proxy's password is where others can read it, or agent.yaml is: %q", leaked.Stdout)
			}
		})
	}
	t.Run("a proxy that does not know us", func(t *testing.T) {
		m := w.machines["denied"]
		if err := m.Reject(t.Context(), own, front, mute); err != nil {
			t.Fatal(err)
		}
		token := w.Mint(t)
		script := strings.Replace(token.InstallCommand, "curl -fsSL", fmt.Sprintf("curl -fsSL --proxy-anyauth -x http://agent:s3cret%%40x@%s:%d", address, digest), 1)
		for _, user := range []string{"", "agent:wrong@"} {
			through := strings.Replace(script, "| sh", fmt.Sprintf("| https_proxy='http://%s%s:%d' sh", user, address, digest), 1)
			r := install(t, m, through, token.Secret)
			if said := r.Stdout + r.Stderr; r.ExitCode == 0 || !strings.Contains(said, "the proxy wants credentials") || strings.Contains(said, "wrong") {
				t.Errorf("user %q: exit code %d, wanted to be told of the proxy, and no password\n%s", user, r.ExitCode, said)
			}
		}
	})
}

// port is a free one.
func port(t *testing.T, address netip.Addr) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func mustPort(t *testing.T, text string) uint16 {
	t.Helper()
	p, err := netip.ParseAddrPort("127.0.0.1:" + text)
	if err != nil {
		t.Fatal(err)
	}
	return p.Port()
}

// startNginx serves TLS on ports before the control plane; true: it passes WebSockets on.
func startNginx(t *testing.T, company *middle, address netip.Addr, to string, ports map[uint16]bool) {
	t.Helper()
	dir := t.TempDir()
	var servers strings.Builder
	var all []uint16
	for at, sockets := range ports {
		upgrade := ""
		if sockets {
			upgrade = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
		}
		fmt.Fprintf(&servers, `server { listen %s:%d ssl; ssl_certificate %s; ssl_certificate_key %s; client_max_body_size 4m;
location / { proxy_pass %s; proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; %s } }
`, address, at, company.certificate, company.key, to, upgrade)
		all = append(all, at)
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http { access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
map $http_upgrade $connection_upgrade { default upgrade; '' close; }
%[2]s}
`, dir, servers.String())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, address, all, filepath.Join(dir, "error.log"), "/usr/sbin/nginx", "-c", config, "-p", dir, "-e", filepath.Join(dir, "error.log"))
}

// startSquid starts an HTTP proxy that lets only user agent through, with the password s3cret@x.
func startSquid(t *testing.T, address netip.Addr, at uint16, scheme string) {
	t.Helper()
	// squid gives up root: its folder must be readable on the whole way.
	dir, err := os.MkdirTemp("", "squid-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "users")
	var secret, auth string
	switch scheme {
	case "basic":
		hashed, err := exec.Command("openssl", "passwd", "-apr1", "s3cret@x").Output()
		if err != nil {
			t.Fatal(err)
		}
		secret = "agent:" + strings.TrimSpace(string(hashed)) + "\n"
		auth = "auth_param basic program /usr/lib/squid/basic_ncsa_auth " + users + "\nauth_param basic realm corp\nauth_param basic children 1\n"
	case "digest":
		sum := md5.Sum([]byte("agent:corp:s3cret@x"))
		secret = "agent:corp:" + hex.EncodeToString(sum[:]) + "\n"
		auth = "auth_param digest program /usr/lib/squid/digest_file_auth -c " + users + "\nauth_param digest realm corp\nauth_param digest children 1\n"
	}
	config := filepath.Join(dir, "squid.conf")
	text := fmt.Sprintf(`http_port %s:%d
%sacl known proxy_auth REQUIRED
acl CONNECT method CONNECT
http_access deny !CONNECT
http_access allow known
http_access deny all
cache deny all
pid_filename none
access_log none
cache_log %[4]s/cache.log
coredump_dir %[4]s
shutdown_lifetime 1 seconds
visible_hostname proxy.example.com
pinger_enable off
`, address, at, auth, dir)
	for path, content := range map[string]string{users: secret, config: text} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	background(t, address, []uint16{at}, filepath.Join(dir, "cache.log"), "/usr/sbin/squid", "-N", "-f", config)
}

// background runs a server for the length of the test and waits until it listens.
func background(t *testing.T, address netip.Addr, ports []uint16, log, program string, args ...string) {
	t.Helper()
	c := exec.Command(program, args...)
	var said strings.Builder
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
	})
	for _, at := range ports {
		await(t, 30*time.Second, program+" listening", func() bool {
			select {
			case <-ended:
				text, _ := os.ReadFile(log)
				t.Fatalf("%s ended: %s%s", program, said.String(), text)
			default:
			}
			conn, err := net.Dial("tcp", netip.AddrPortFrom(address, at).String())
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
	}
}

// A machine without any IPv4 address is brought in like any other.
func TestOverIPv6Alone(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "e2e-ipv6")
	w := &world{network: n, machines: map[string]*lab.Machine{}}
	if err := w.boot(t.Context(), "six"); err != nil {
		t.Fatal(err)
	}
	m := w.machines["six"]
	if run(t, m, "ip -6 address show dev eth0 | grep -q fd00:").ExitCode != 0 {
		t.Skip("missing feature: IPv6 in this kernel")
	}
	w.ControlPlane = controlplane.Start(t, controlplane.Options{Address: n.HostAddress6()})
	must(t, m, "ip -4 address flush dev eth0 && ! ip -4 route | grep -q .")
	w.enrol(t, "six")
	w.AwaitState(t, "six", "managed", 20*time.Second)
	s := status(t, m)
	if h := w.Host(t, "six"); !s.OK || s.Transport != "websocket" || !strings.HasPrefix(h.EnrolledFrom, "fd00:") {
		t.Errorf("got %+v, enrolled from %s; wanted it well, by a WebSocket, from its IPv6 address", s, h.EnrolledFrom)
	}
}
