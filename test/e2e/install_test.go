package e2e

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/lab"
)

// A blank machine becomes a managed host by the command that is shown; again changes nothing; removed leaves nothing.
func TestInstallCommandMakesABlankMachineManaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-install", nil, "blank", "twins")

	m := w.machines["blank"]
	before := files(t, m)
	t.Logf("blank to managed, script included: %v", w.enrol(t, "blank").Round(time.Millisecond))
	host := w.Host(t, "blank")
	if host.State != "managed" {
		t.Errorf("the host when the installer ended: got %s (%s), wanted managed", host.State, host.Reason)
	}
	if host.Inventory.BootID == "" {
		t.Error("the host has no boot id in its inventory")
	}

	t.Run("run again changes nothing", func(t *testing.T) {
		pid, listed := mainPID(t, m), files(t, m)
		token := w.Mint(t)
		for _, secret := range []string{token.Secret, ""} {
			start := time.Now()
			r := install(t, m, token.InstallCommand, secret)
			if r.ExitCode != 0 || !strings.Contains(r.Stdout+r.Stderr, "nothing changed") {
				t.Errorf("second run: exit code %d, wanted 0 and \"nothing changed\"\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
			}
			t.Logf("a run that changes nothing: %v", time.Since(start).Round(time.Millisecond))
		}
		if got := mainPID(t, m); got != pid {
			t.Errorf("the agent was restarted: main process %s, wanted %s", got, pid)
		}
		if after := files(t, m); !slices.Equal(after, listed) {
			t.Errorf("files made: %v, removed: %v; wanted none", difference(after, listed), difference(listed, after))
		}
		var shown struct{ State string }
		w.JSON(t, &shown, "token", "show", token.Token.ID)
		if shown.State != "active" {
			t.Errorf("the token that was not needed: got %s, wanted active", shown.State)
		}
	})

	t.Run("systemd finds the unit well confined", func(t *testing.T) {
		text := must(t, m, "systemd-analyze security --no-pager --threshold=30 loopback-agent.service | tail -n 1")
		t.Log(text)
		if r := run(t, m, "systemd-analyze security --no-pager --threshold=30 loopback-agent.service"); r.ExitCode != 0 {
			t.Errorf("exposure above 3.0:\n%s", r.Stdout)
		}
	})

	t.Run("two installations at once", func(t *testing.T) {
		m := w.machines["twins"]
		token := w.Mint(t, "--max-uses", "2")
		type outcome struct {
			code int
			text string
			err  error
		}
		results := make(chan outcome, 2)
		for range 2 {
			go func() {
				var out bytes.Buffer
				code, err := m.Run(t.Context(), lab.Command{
					Args:  []string{"sh", "-c", "LOOPBACK_TOKEN=$(cat) && export LOOPBACK_TOKEN && " + token.InstallCommand},
					Stdin: strings.NewReader(token.Secret), Stdout: &out, Stderr: &out,
				})
				results <- outcome{code, out.String(), err}
			}()
		}
		for range 2 {
			if r := <-results; r.err != nil || r.code != 0 {
				t.Errorf("exit code %d, %v, wanted 0\n%s", r.code, r.err, r.text)
			}
		}
		w.AwaitState(t, "twins", "managed", 10*time.Second)
		hosts, err := w.Hosts(t.Context())
		if err != nil || len(hosts) != 2 {
			t.Errorf("hosts: got %v, %v, wanted blank and twins", hosts, err)
		}
		var shown struct{ Uses int }
		w.JSON(t, &shown, "token", "show", token.Token.ID)
		if shown.Uses != 1 {
			t.Errorf("uses of the token: got %d, wanted 1", shown.Uses)
		}
	})

	t.Run("uninstall --purge removes everything it made", func(t *testing.T) {
		made := difference(files(t, m), before)
		r := run(t, m, "loopback-agent uninstall --purge")
		if r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		after := files(t, m)
		if left, lost := difference(after, before), difference(before, after); len(left)+len(lost) > 0 {
			t.Errorf("left: %v, lost: %v; wanted the machine as it was", left, lost)
		}
		if len(made) < 10 {
			t.Errorf("the agent was made of %v; wanted more, or the comparison proves nothing", made)
		}
		if units := run(t, m, "systemctl list-unit-files --no-legend 'loopback*'; systemctl list-units --all --no-legend 'loopback*'").Stdout; strings.TrimSpace(units) != "" {
			t.Errorf("units left:\n%s", units)
		}
		if found := run(t, m, "ps -eo args | grep [l]oopback-agent").Stdout; found != "" {
			t.Errorf("processes left:\n%s", found)
		}

		t.Logf("enrolled anew in %v", w.enrol(t, "blank").Round(time.Millisecond))
		hosts, err := w.Hosts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again := hosts["blank-2"]; again.State != "managed" || again.ID == host.ID {
			t.Errorf("the machine as a new host: got %+v, wanted blank-2, managed; hosts: %v", again, hosts)
		}
	})
}
