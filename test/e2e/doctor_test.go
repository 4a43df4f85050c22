package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
)

// Each cause is made for real on a machine; what doctor names first is what is wrong.
func TestDoctorNamesWhatIsWrongAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-doctor", nil, "patient")
	address := w.network.HostAddress()
	w.enrol(t, "patient")
	w.AwaitState(t, "patient", "managed", 20*time.Second)
	m := w.machines["patient"]
	other := controlplane.Start(t, controlplane.Options{Address: address})
	stranger := newMiddle(t, address)
	stranger.lead(t, w.URL)
	squid := port(t, address)
	startSquid(t, address, squid, "digest")
	silent := port(t, address) // nobody listens there

	here, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	const config = "/etc/loopback/agent.yaml"
	must(t, m, "cp -p "+config+" /root/agent.yaml")
	replace := func(from, to string) string { return fmt.Sprintf("sed -i 's#%s#%s#' %s", from, to, config) }
	add := func(line string) string { return "echo '" + line + "' >>" + config }

	for _, c := range []struct {
		name, cause, heal, code string
	}{
		{"no name", replace(address.String(), "cp.nowhere.example"), "", "dns_failed"},
		{"no route", "ip route add unreachable " + address.String() + "/32", "ip route del unreachable " + address.String() + "/32", "no_route"},
		{"a port that is dropped", fmt.Sprintf("nft 'add table inet doctor; add chain inet doctor out { type filter hook input priority 0; }; add rule inet doctor out tcp sport %s drop'", here.Port()), "nft delete table inet doctor", "connect_timeout"},
		{"a port that this host forbids", fmt.Sprintf("nft 'add table inet doctor; add chain inet doctor out { type filter hook output priority 0; }; add rule inet doctor out tcp dport %s drop'", here.Port()), "nft delete table inet doctor", "connect_timeout connect_blocked"},
		{"a port where nobody listens", replace(":"+here.Port(), fmt.Sprintf(":%d", silent)), "", "connect_refused"},
		{"a proxy that is not there", add(fmt.Sprintf("proxy: http://%s:%d", address, silent)), "", "proxy_failed"},
		{"a proxy that wants a password", add(fmt.Sprintf("proxy: http://%s:%d", address, squid)), "", "proxy_auth_required"},
		{"a proxy that wants another password", add(fmt.Sprintf("proxy: http://agent:no@%s:%d", address, squid)), "", "proxy_auth_required"},
		{"TLS that is intercepted", replace(w.URL, stranger.url), "", "tls_untrusted"},
		{"another control plane", replace(w.URL, other.URL) + " && cp -p /etc/loopback/ca.pem /root/ca.pem", "cp -p /root/ca.pem /etc/loopback/ca.pem", "anchor_mismatch"},
		{"settings that others may change", "chmod 666 " + config, "", "config_permission"},
		{"settings that cannot be read", "echo 'endpoint: nonsense' >>" + config, "", "config_invalid"},
		{"state that others may read", "chmod 755 /var/lib/loopback", "chmod 700 /var/lib/loopback", "state_permission"},
		{"a full disk", "mount -t tmpfs -o size=8m,mode=700 full /var/lib/loopback && cp -a /var/lib/.loopback/. /var/lib/loopback/", "umount /var/lib/loopback", "disk_full"},
		{"no inodes", "mount -t tmpfs -o size=64m,nr_inodes=40,mode=700 full /var/lib/loopback && cp -a /var/lib/.loopback/. /var/lib/loopback/ && i=0; while touch /var/lib/loopback/f$i 2>/dev/null; do i=$((i+1)); done", "umount /var/lib/loopback", "inodes_full"},
		{"programs that may not run", "mount --bind /opt/loopback /opt/loopback && mount -o remount,bind,noexec /opt/loopback", "umount /opt/loopback", "disk_noexec"},
		{"a unit that is not enabled", "systemctl disable -q loopback-agent", "systemctl enable -q loopback-agent", "unit_disabled"},
		{"an agent that does not run", "systemctl stop loopback-agent", "systemctl start loopback-agent", "agent_not_running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, m, "rm -rf /var/lib/.loopback && cp -a /var/lib/loopback /var/lib/.loopback")
			cause := c.cause
			if c.code == "anchor_mismatch" { // its certificate is trusted; it is another control plane all the same
				ca, err := other.CA()
				if err != nil {
					t.Fatal(err)
				}
				defer func() { must(t, m, "true") }()
				must(t, m, cause)
				if err := m.PutFile(t.Context(), "/etc/loopback/ca.pem", strings.NewReader(ca), 0o644); err != nil {
					t.Fatal(err)
				}
			} else {
				must(t, m, cause)
			}
			defer func() {
				if c.heal != "" {
					must(t, m, c.heal)
				}
				must(t, m, "cp -p /root/agent.yaml "+config)
			}()
			// The program that is asked must run itself, also where programs may not.
			r := run(t, m, "cp -L /opt/loopback/current/bin/loopback-agent /root/doctor && /root/doctor doctor -o json --timeout 20s")
			var said struct {
				OK    bool
				Items []struct{ Name, Outcome, Code, Seen, Change string }
			}
			if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil {
				t.Fatalf("%v\n%s%s", err, r.Stdout, r.Stderr)
			}
			for _, item := range said.Items {
				if item.Outcome != "failed" && item.Outcome != "warning" {
					continue
				}
				if !strings.Contains(" "+c.code+" ", " "+item.Code+" ") || item.Change == "" {
					t.Errorf("named first: %+v, wanted %s and what to change", item, c.code)
				}
				return
			}
			t.Errorf("nothing was named, wanted %s\n%s", c.code, r.Stdout)
		})
	}
}
