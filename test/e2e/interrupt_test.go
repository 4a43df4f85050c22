package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// An installation that is killed at any moment leaves nothing half-installed running, and the same token finishes it.
func TestKilledInstallationsAreFinishedByTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-interrupt", nil, "patient")
	m := w.machines["patient"]
	before := files(t, m)

	t.Run("a dry run changes nothing", func(t *testing.T) {
		token := w.Mint(t)
		r := install(t, m, token.InstallCommand, token.Secret, "--dry-run")
		if r.ExitCode != 0 || !strings.Contains(r.Stdout+r.Stderr, "nothing was changed") {
			t.Errorf("exit code %d, wanted 0 and \"nothing was changed\"\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if after := files(t, m); !slices.Equal(after, before) {
			t.Errorf("made: %v, removed: %v; wanted nothing", difference(after, before), difference(before, after))
		}
	})

	token := w.Mint(t, "--max-uses", "1")
	command := strings.Replace(token.InstallCommand, "| sh", "| timeout -s KILL %s sh", 1)
	killed, finished := 0, 0
	for after := 100 * time.Millisecond; after < 4*time.Second && finished < 2; after += 150 * time.Millisecond {
		r := install(t, m, fmt.Sprintf(command, fmt.Sprintf("%.2f", after.Seconds())), token.Secret)
		if r.ExitCode == 0 {
			finished++
		} else {
			killed++
		}
		active := run(t, m, "systemctl is-active --quiet loopback-agent").ExitCode == 0
		enrolled := run(t, m, "grep -q hst_ /var/lib/loopback/identity").ExitCode == 0
		if active && !enrolled {
			t.Errorf("killed after %v: an agent runs that is not enrolled", after)
		}
	}
	t.Logf("killed %d times, came through %d times", killed, finished)
	if killed < 3 {
		t.Errorf("killed %d times, wanted more, or it proves little", killed)
	}
	if r := install(t, m, token.InstallCommand, token.Secret); r.ExitCode != 0 {
		t.Errorf("not killed: exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	host, _ := w.AwaitState(t, "patient", "managed", 10*time.Second)
	var shown struct{ Uses int }
	w.JSON(t, &shown, "token", "show", token.Token.ID)
	if hosts, err := w.Hosts(t.Context()); err != nil || len(hosts) != 1 || shown.Uses != 1 {
		t.Errorf("got hosts %v, %v and %d uses; wanted one of each", hosts, err, shown.Uses)
	}

	t.Run("uninstalled and installed again without a token", func(t *testing.T) {
		must(t, m, "loopback-agent uninstall")
		if r := install(t, m, token.InstallCommand, ""); r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if again, _ := w.AwaitState(t, "patient", "managed", 10*time.Second); again.ID != host.ID {
			t.Errorf("it came back as %s, wanted %s", again.ID, host.ID)
		}
	})

	t.Run("from a bundle, then purged", func(t *testing.T) {
		must(t, m, "loopback-agent uninstall --purge")
		r := install(t, m, token.InstallCommand, "", "--download-only", "/root/bundle")
		if r.ExitCode != 0 {
			t.Fatalf("download only: exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		shown := strings.TrimSpace(r.Stdout)
		fresh := w.Mint(t)
		if r := runInput(t, m, fresh.Secret, shown+" --name bundled"); r.ExitCode != 0 { // the token on standard input
			t.Fatalf("%s: exit code %d, wanted 0\n%s%s", shown, r.ExitCode, r.Stdout, r.Stderr)
		}
		w.AwaitState(t, "bundled", "managed", 10*time.Second)
		must(t, m, "loopback-agent uninstall --purge && rm -r /root/bundle")
		if after := files(t, m); !slices.Equal(after, before) {
			t.Errorf("left: %v, lost: %v; wanted the machine as it was", difference(after, before), difference(before, after))
		}
	})
}
