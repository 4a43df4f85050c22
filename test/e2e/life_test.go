package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// applied says that a host has applied the settings that are wanted of it now.
func applied(h controlHost) bool {
	for _, s := range h.Sections {
		if s.Name == "settings" {
			return s.Status == "applied" && s.Revision == s.DesiredRevision
		}
	}
	return false
}

func revision(s agentStatus) string {
	for _, each := range s.Sections {
		if each.Name == "settings" {
			return each.Status + " " + each.Revision
		}
	}
	return ""
}

// What operators decide about a host reaches it, and only then.
func TestLifeOfAHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-life", quick, "fleeting", "led", "witness", "expelled")
	w.Must(t, "settings", "set", "--heartbeat-min", "1s", "--heartbeat-max", "2s")
	led, witness := w.machines["led"], w.machines["witness"]

	// First, since it takes longest: a host that is to go by itself.
	fleeting := w.Mint(t, "--ephemeral", "1m")
	if r := install(t, w.machines["fleeting"], fleeting.InstallCommand, fleeting.Secret); r.ExitCode != 0 {
		t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	gone := w.Host(t, "fleeting").ID
	if err := w.machines["fleeting"].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := time.Now()
	w.enrolAll(t, "witness")

	t.Run("approval", func(t *testing.T) {
		token := w.Mint(t, "--require-approval")
		r := install(t, led, token.InstallCommand, token.Secret)
		if r.ExitCode != 0 || !strings.Contains(r.Stdout+r.Stderr, "awaits approval") {
			t.Errorf("exit code %d, wanted 0 and that it awaits approval\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if h := w.Host(t, "led"); h.State != "pending" {
			t.Errorf("state: got %s (%s), wanted pending", h.State, h.Reason)
		}
		if s := status(t, led); s.Standing != "pending" || len(s.Sections) != 0 {
			t.Errorf("the agent: got standing %q and sections %v, wanted pending and none", s.Standing, s.Sections)
		}
		w.Must(t, "host", "approve", "led")
		_, took := w.AwaitState(t, "led", "managed", 10*time.Second)
		t.Logf("managed %v after its approval", took.Round(time.Millisecond))
	})

	t.Run("settings", func(t *testing.T) {
		before := revision(status(t, led))
		w.Must(t, "settings", "set", "--host", "led", "--log-level", "warn")
		_, took := w.Await(t, "led", 5*time.Second, "the new settings applied", applied)
		t.Logf("a changed setting was applied after %v", took.Round(time.Millisecond))
		if after := revision(status(t, led)); after == before || !strings.HasPrefix(after, "applied ") {
			t.Errorf("the agent's settings: got %q, wanted a later revision than %q", after, before)
		}

		w.Must(t, "settings", "set", "--host", "led", "--module", "lbfw")
		h, _ := w.AwaitState(t, "led", "degraded", 5*time.Second)
		if !strings.Contains(h.Reason, "lbfw") || !strings.Contains(h.Reason, "agent.yaml") {
			t.Errorf("reason: got %q, wanted that agent.yaml does not allow lbfw", h.Reason)
		}
		w.Must(t, "settings", "set", "--host", "led", "--unset", "module")
		w.AwaitState(t, "led", "managed", 5*time.Second)
		if r := w.Run(t, "settings", "set", "--log-level", "loud"); r.ExitCode != 2 || !strings.Contains(r.Stderr, "loud") {
			t.Errorf("a log level that does not exist: got exit code %d, %s, wanted 2 and what is wrong", r.ExitCode, r.Stderr)
		}
	})

	t.Run("a module is restarted", func(t *testing.T) {
		before := revision(status(t, led))
		if out := w.Must(t, "host", "restart-module", "led", "settings", "--reason", "a test"); !strings.Contains(out, before) || !strings.Contains(out, "; healthy") {
			t.Errorf("it says %q, wanted that %s holds, and is healthy", out, before)
		}
		if r := w.Run(t, "host", "restart-module", "led", "none"); r.ExitCode != 5 || !strings.Contains(r.Stderr, "settings") {
			t.Errorf("a module that is not there: got exit code %d, %s, wanted 5 and those that are", r.ExitCode, r.Stderr)
		}
	})

	t.Run("quarantine", func(t *testing.T) {
		w.Must(t, "host", "quarantine", "led", "--reason", "looks odd")
		if h := w.Host(t, "led"); h.State != "quarantined" || h.Reason != "looks odd" {
			t.Errorf("state: got %s (%s), wanted quarantined (looks odd)", h.State, h.Reason)
		}
		await(t, 5*time.Second, "quarantined by its own word", func() bool { return status(t, led).Standing == "quarantined" })
		held := revision(status(t, led))
		w.Must(t, "settings", "set", "--log-level", "error")
		w.Must(t, "settings", "set", "--host", "led", "--unset", "log-level")
		w.Await(t, "witness", 5*time.Second, "the new settings applied", applied)
		if got := revision(status(t, led)); got != held {
			t.Errorf("settings of the quarantined host: got %q, wanted them left at %q", got, held)
		}
		if pid := mainPID(t, led); pid == "0" || status(t, led).State != "linked" {
			t.Error("the quarantined host is not linked")
		}

		w.Must(t, "host", "release", "led")
		w.AwaitState(t, "led", "managed", 5*time.Second)
		w.Await(t, "led", 5*time.Second, "what had changed meanwhile applied", applied)
		if got := revision(status(t, led)); got == held {
			t.Errorf("settings after the release: still %q, wanted what had changed meanwhile", got)
		}
	})

	t.Run("move", func(t *testing.T) {
		w.Must(t, "workspace", "create", "elsewhere", "--project", "default")
		w.Must(t, "settings", "set", "-w", "elsewhere", "--log-level", "debug")
		before, held := w.Host(t, "led"), revision(status(t, led))
		w.Must(t, "host", "move", "led", "--to", "elsewhere")
		h, _ := w.Await(t, before.ID, 5*time.Second, "the other workspace's settings applied", applied)
		if h.Scope.WorkspaceID == before.Scope.WorkspaceID || h.State != "managed" {
			t.Errorf("moved: got workspace %s, state %s, wanted another than before, and managed", h.Scope.WorkspaceID, h.State)
		}
		if got := revision(status(t, led)); got == held {
			t.Errorf("settings after the move: still %q, wanted those of the other workspace", got)
		}
	})

	t.Run("removal", func(t *testing.T) {
		id := w.Host(t, "witness").ID
		start := time.Now()
		w.Must(t, "host", "remove", "witness", "--reason", "sold")
		if h := w.Host(t, id); h.State != "removed" || h.Reason != "sold" {
			t.Errorf("state: got %s (%s), wanted removed (sold)", h.State, h.Reason)
		}
		await(t, 5*time.Second, "refused by its own word", func() bool { return status(t, witness).State == "refused" })
		t.Logf("the removed host knew after %v", time.Since(start).Round(time.Millisecond))
		if s := status(t, witness); s.LastError == nil || s.LastError.Code != "host_removed" || !strings.Contains(s.LastError.Hint, "uninstall --purge") {
			t.Errorf("the agent's last error: got %+v, wanted host_removed and what to do", s.LastError)
		}
		// Its key is dead: neither a restart nor a fresh token brings it back, but a new key does.
		must(t, witness, "systemctl restart loopback-agent")
		await(t, 10*time.Second, "refused again", func() bool { return status(t, witness).State == "refused" })
		token := w.Mint(t)
		r := install(t, witness, token.InstallCommand, token.Secret)
		if r.ExitCode == 0 || !strings.Contains(hintOf(r.Stdout+r.Stderr), "uninstall --purge") {
			t.Errorf("installing over it: got exit code %d, wanted a refusal that says to purge\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		must(t, witness, "loopback-agent uninstall --purge")
		if r := install(t, witness, token.InstallCommand, token.Secret); r.ExitCode != 0 {
			t.Errorf("installing anew: exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		h, _ := w.AwaitState(t, "witness", "managed", 5*time.Second)
		if h.ID == id {
			t.Errorf("got the removed host %s back, wanted a new one", id)
		}
	})

	t.Run("expulsion", func(t *testing.T) {
		m := w.machines["expelled"]
		token := w.Mint(t)
		if r := install(t, m, token.InstallCommand, token.Secret); r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		id := w.Host(t, "expelled").ID
		start := time.Now()
		w.Must(t, "token", "revoke", token.Token.ID, "--hosts", "expel", "--reason", "leaked")
		if h := w.Host(t, id); h.State != "removed" {
			t.Errorf("state: got %s (%s), wanted removed", h.State, h.Reason)
		}
		await(t, 5*time.Second, "refused by its own word", func() bool { return status(t, m).State == "refused" })
		t.Logf("the expelled host knew after %v", time.Since(start).Round(time.Millisecond))
		if h := w.Host(t, "witness"); h.State != "managed" {
			t.Errorf("another token's host: got %s, wanted managed", h.State)
		}
	})

	t.Run("ephemeral", func(t *testing.T) {
		// Silence, the window, the minute it was minted with, and the worker's five seconds.
		bound := offlineBound + time.Minute + 5*time.Second
		silent, _ := w.Await(t, gone, time.Until(left.Add(offlineBound+5*time.Second)), "offline", func(h controlHost) bool {
			return h.State == "offline" || h.State == "removed" // on a slow machine it may be gone by now
		})
		h, _ := w.Await(t, gone, time.Until(left.Add(bound+5*time.Second)), "removed", func(h controlHost) bool {
			return h.State == "removed" && strings.Contains(h.Reason, "ephemeral")
		})
		// The minute begins with the host's last word, which may be a heartbeat older than the cut.
		took := h.Since.Sub(silent.LastSeenAt)
		t.Logf("removed %v after its last word, %v after its power was cut", took.Round(100*time.Millisecond), h.Since.Sub(left).Round(100*time.Millisecond))
		if silent.LastSeenAt.IsZero() || silent.LastSeenAt.After(left) || took < time.Minute {
			t.Errorf("removed %v after its last word at %v, wanted no sooner than a minute", took, silent.LastSeenAt)
		}
		hosts, err := w.Hosts(t.Context())
		if _, there := hosts["fleeting"]; err != nil || there {
			t.Errorf("hosts: got %v, %v, wanted them without it", hosts, err)
		}
		if actions := w.Must(t, "audit", "list", "-o", "json"); !slices.Contains(strings.Fields(actions), `"hosts.remove",`) {
			t.Error("the audit log has no hosts.remove")
		}
	})
}
