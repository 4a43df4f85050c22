package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
	"github.com/loopbackd/loopback/test/guest"
)

// A machine with a clock of its own: lab's share this computer's. What is wrong is named wherever somebody looks, and a
// link is made and kept whatever the clock says.
func TestAHostWhoseClockIsAYearOff(t *testing.T) {
	t.Parallel()
	g := guest.Start(t)
	c := controlplane.Start(t, controlplane.Options{Address: netip.MustParseAddr("127.0.0.1"), PublicAddress: guest.Host})
	run := func(script string) (string, int) {
		t.Helper()
		out, code, err := g.Run(t.Context(), script)
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return out, code
	}
	must := func(script string) string {
		t.Helper()
		out, code := run(script)
		if code != 0 {
			t.Fatalf("%s: exit code %d, want 0\n%s", script, code, out)
		}
		return out
	}
	says := func(what, got string, wanted ...string) {
		t.Helper()
		for _, w := range wanted {
			if !strings.Contains(got, w) {
				t.Errorf("%s: nothing of %q in\n%s", what, w, got)
			}
		}
	}
	token := c.Mint(t)
	install := "LOOPBACK_TOKEN=" + token.Secret + " && export LOOPBACK_TOKEN && " + token.InstallCommand

	must("date -s '1 year ago'")
	out, code := run(install)
	if code == 0 {
		t.Errorf("it was installed by a certificate that is not valid yet\n%s", out)
	}
	says("installing a year behind", out, "this host's clock is wrong", "the control plane ", "set the clock")
	must("test ! -e /opt/loopback && test ! -e /etc/loopback")

	must("date -s '1 year'")
	must(install)
	h, _ := c.AwaitState(t, must("hostname | tr -d '\\n'"), "managed", time.Minute)
	watch := c.Watch(t)

	// The link that stands does not mind, nor does one that is made anew; doctor does.
	for _, wrong := range []struct{ set, says, warns string }{
		{"1 year", "365d ahead of", ""},
		{"2 years ago", "365d behind", "tls_clock"},
	} {
		must("date -s '" + wrong.set + "'")
		out = must("loopback-agent status")
		says("status, the clock set "+wrong.set, out, "linked for ")
		if age := strings.TrimSpace(strings.SplitN(strings.SplitN(out, "linked for ", 2)[1], ",", 2)[0]); strings.ContainsAny(age, "hd-") {
			t.Errorf("the link is %s old by a clock that was set since", age)
		}
		must("systemctl restart loopback-agent && loopback-agent status --wait 60s")
		out, code = run("loopback-agent doctor")
		if code != 1 {
			t.Errorf("doctor, the clock set %s: exit code %d, want 1", wrong.set, code)
		}
		says("doctor, the clock set "+wrong.set, out, "failed   clock", wrong.says, "clock_skew", wrong.warns)
	}
	must("date -s '1 year'")
	must("systemctl restart loopback-agent && loopback-agent status --wait 60s && loopback-agent doctor")
	c.AwaitState(t, h.Name, "managed", 10*time.Second)
	if states := watch.States(h.Name, time.Time{}); slices.Contains(states, "offline") {
		t.Errorf("it was %v: a clock is no reason to be offline", states)
	}
}
