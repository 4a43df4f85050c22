package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sheller makes a service account that may have shells for a while, and returns its key.
func sheller(t testing.TB, w *world, name string) (key string) {
	t.Helper()
	w.Must(t, "service-account", "create", name)
	w.Must(t, "role", "create", name, "--permission", "shell_sessions.open", "--permission", "shell_sessions.*", "--permission", "hosts.read", "--permission", "workspaces.read",
		"--permission", "organisations.read", "--permission", "projects.read")
	w.Must(t, "binding", "create", "--service-account", name, "--role", name, "--everywhere", "--not-after", "1h")
	return strings.TrimSpace(w.Must(t, "apikey", "create", name, "--service-account", name, "--permission", "shell_sessions.open", "--permission", "shell_sessions.join",
		"--permission", "*", "--ttl", "1h"))
}

// typist is a `loopback shell` that is typed into by a program.
type typist struct {
	t    testing.TB
	in   io.WriteCloser
	cmd  *exec.Cmd
	done chan error

	mu   sync.Mutex
	out  bytes.Buffer
	errs bytes.Buffer
	more chan struct{}
}

func (y *typist) Write(b []byte) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.out.Write(b)
	select {
	case y.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

// typing starts the command line as whoever has this key.
func (w *world) typing(t testing.TB, key string, args ...string) *typist {
	t.Helper()
	return w.typingWith(t, key, nil, args...)
}

func (w *world) typingWith(t testing.TB, key string, environment []string, args ...string) *typist {
	t.Helper()
	y := &typist{t: t, done: make(chan error, 1), more: make(chan struct{}, 1)}
	y.cmd = w.Command(t, context.Background(), key, args...)
	y.cmd.Env = append(y.cmd.Env, environment...)
	var err error
	if y.in, err = y.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	y.cmd.Stdout, y.cmd.Stderr = y, &y.errs
	if err := y.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { y.done <- y.cmd.Wait() }()
	t.Cleanup(func() {
		_ = y.cmd.Process.Kill()
		<-y.done
	})
	return y
}

func (y *typist) seen() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.out.String()
}

func (y *typist) type_(s string) {
	y.t.Helper()
	if _, err := io.WriteString(y.in, s); err != nil {
		y.t.Fatal(err)
	}
}

func (y *typist) await(what string) {
	y.t.Helper()
	over := time.After(60 * time.Second)
	for !strings.Contains(y.seen(), what) {
		select {
		case <-y.more:
		case err := <-y.done:
			y.done <- err
			if !strings.Contains(y.seen(), what) {
				y.t.Fatalf("it ended (%v) before %q was shown\n%s\n%s", err, what, y.seen(), y.errs.String())
			}
		case <-over:
			y.t.Fatalf("%q was not shown\n%s\n%s", what, y.seen(), y.errs.String())
		}
	}
}

// ends waits for the command's end and returns its exit code.
func (y *typist) ends() int {
	y.t.Helper()
	select {
	case err := <-y.done:
		y.done <- err
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			y.t.Fatal(err)
		}
		return 0
	case <-time.After(60 * time.Second):
		y.t.Fatalf("it does not end\n%s\n%s", y.seen(), y.errs.String())
		return 0
	}
}

type shellSession struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	EndReason string `json:"endReason"`
	Verdict   string `json:"verdict"`
	Root      string `json:"root"`
	HostRoot  string `json:"hostRoot"`
}

// last is the newest session.
func (w *world) last(t testing.TB) shellSession {
	t.Helper()
	var list struct {
		Items []shellSession `json:"items"`
	}
	w.JSON(t, &list, "session", "list")
	if len(list.Items) == 0 {
		t.Fatal("there is no session")
	}
	return list.Items[0]
}

func (w *world) ended(t testing.TB, id string) (s shellSession) {
	t.Helper()
	await(t, 30*time.Second, "the session's end", func() bool {
		w.JSON(t, &s, "session", "show", id)
		return s.State == "ended"
	})
	return s
}

// Somebody opens a shell on a real host, types, and is recorded twice; it outlives the agent, the control plane and the network;
// others watch it and end it; revocation ends it at once; and nothing of it is left.
func TestShell(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-shell", nil, "db-7", "web-1")
	m := w.machines["db-7"]
	token := w.Mint(t, "--max-uses", "2")
	if r := install(t, m, token.InstallCommand, token.Secret, "--allow-shell"); r.ExitCode != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	if r := install(t, w.machines["web-1"], token.InstallCommand, token.Secret, "--allow-shell=false"); r.ExitCode != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	w.AwaitState(t, "db-7", "managed", 20*time.Second)
	w.AwaitState(t, "web-1", "managed", 20*time.Second)
	key := sheller(t, w, "ada")
	open := func(args ...string) *typist {
		return w.typing(t, key, append([]string{"shell", "db-7", "--reason", "replication is stuck", "--ticket", "OPS-42"}, args...)...)
	}

	t.Run("what is missing is said", func(t *testing.T) {
		for _, c := range []struct {
			key  string
			args []string
			want string
		}{
			{w.Key(), []string{"shell", "db-7", "--reason", "x"}, "shell_sessions.open"},
			{key, []string{"shell", "db-7"}, "reason"},
			{key, []string{"shell", "web-1", "--reason", "x"}, "does not allow shells"},
			{key, []string{"shell", "db-8", "--reason", "x"}, "was not found"},
			{key, []string{"shell", "db-7", "--reason", "x", "--user", "nobody-there"}, "no user"},
		} {
			y := w.typing(t, c.key, c.args...)
			if code := y.ends(); code == 0 || !strings.Contains(y.errs.String()+y.seen(), c.want) {
				t.Errorf("%v: got exit code %d, %s%s; want %q", c.args, code, y.seen(), y.errs.String(), c.want)
			}
		}
	})

	t.Run("typed, shown, recorded twice", func(t *testing.T) {
		y := open()
		y.await("This session on db-7 is recorded.")
		y.type_("id -un; echo $HOME; tty; cat /proc/self/cgroup; echo a$((40+2))b\n")
		y.await("a42b")
		if s := y.seen(); !strings.Contains(s, "root\r\n/root\r\n/dev/pts/") {
			t.Errorf("shown was %q", s)
		}
		running := w.last(t)
		watcher := w.typing(t, w.Key(), "session", "watch", running.ID)
		watcher.await("a42b")
		y.type_("echo seen-$((1+1))\n")
		watcher.await("seen-2")
		y.type_("exit 7\n")
		if code := y.ends(); code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
		if code := watcher.ends(); code != 0 {
			t.Errorf("the watcher ended with %d: %s", code, watcher.errs.String())
		}
		s := w.ended(t, running.ID)
		if s.Verdict != "agreed" || s.Root == "" || s.Root != s.HostRoot {
			t.Errorf("got %+v, want recordings that agree", s)
		}
		if cast := w.Must(t, "session", "export", s.ID); !strings.Contains(cast, `"version":3`) || !strings.Contains(cast, "a42b") || !strings.Contains(cast, `, "x", "7"]`) {
			t.Errorf("the recording is %s", cast)
		}
		var log struct {
			Items []struct {
				Action string `json:"action"`
				Target string `json:"target"`
			} `json:"items"`
		}
		w.JSON(t, &log, "audit", "list", "--limit", "50")
		var acts []string
		for _, e := range log.Items {
			if e.Target == s.ID {
				acts = append(acts, e.Action)
			}
		}
		if got := strings.Join(acts, " "); got != "shell_sessions.replay shell_sessions.end shell_sessions.watch shell_sessions.open" {
			b, _ := json.Marshal(log)
			t.Errorf("the audit log has %s\n%s", got, b)
		}
	})

	t.Run("through a proxy", func(t *testing.T) {
		var tunnels atomic.Int64
		proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodConnect {
				http.Error(rw, "only tunnels", http.StatusMethodNotAllowed)
				return
			}
			to, err := net.Dial("tcp", r.Host)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadGateway)
				return
			}
			defer to.Close()
			from, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer from.Close()
			tunnels.Add(1)
			_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			_, _ = io.Copy(from, to)
		}))
		defer proxy.Close()
		y := w.typingWith(t, key, []string{"HTTPS_PROXY=" + proxy.URL}, "shell", "db-7", "--reason", "a proxy")
		y.await("recorded")
		y.type_("echo by-$((1+1))-ways; exit\n")
		y.await("by-2-ways")
		if code := y.ends(); code != 0 || tunnels.Load() < 2 {
			t.Errorf("exit code %d, %d tunnels: want the call and the session through it\n%s", code, tunnels.Load(), y.errs.String())
		}
	})

	t.Run("it outlives the agent and the control plane", func(t *testing.T) {
		y := open()
		y.await("recorded")
		y.type_("x=41; echo before-$((x+1))\n")
		y.await("before-42")
		must(t, m, "systemctl kill --signal=KILL loopback-agent.service && systemctl restart loopback-agent.service")
		y.type_("echo agent-$((x+1))\n")
		y.await("agent-42")
		w.Kill(t)
		y.type_("echo plane-$((x+1))\n")
		w.Restart(t)
		y.await("plane-42")
		y.type_("exit\n")
		if code := y.ends(); code != 0 {
			t.Errorf("exit code %d: %s", code, y.errs.String())
		}
		if s := w.ended(t, w.last(t).ID); s.Verdict != "agreed" {
			t.Errorf("got %+v", s)
		}
		if n := strings.Count(y.seen(), "plane-42"); n != 1 {
			t.Errorf("%d times shown: %q", n, y.seen())
		}
	})

	// The agent links anew after the restart of both.
	await(t, 30*time.Second, "a link", func() bool {
		y := open()
		y.type_("exit\n")
		code := y.ends()
		if code != 0 {
			t.Logf("no shell yet: %s", y.errs.String())
		}
		return code == 0
	})

	t.Run("kill ends a fork bomb and all that was left behind", func(t *testing.T) {
		y := open()
		y.await("recorded")
		y.type_("(trap '' HUP TERM; exec sleep 54321) & echo in-the-$((1))background\n")
		y.await("in-the-1background")
		y.type_("f() { f | f & }; f; echo bomb-$((1+1))\n")
		y.await("bomb-2")
		id := w.last(t).ID
		w.Must(t, "session", "kill", id, "--comment", "enough")
		s := w.ended(t, id)
		if !strings.Contains(s.EndReason, "enough") {
			t.Errorf("got %+v", s)
		}
		y.ends()
		await(t, 20*time.Second, "the end of what was started", func() bool {
			return run(t, m, "pgrep -f '[s]leep 54321'").ExitCode != 0 && run(t, m, "systemctl --no-legend list-units 'loopback-terminal-*' 'loopback-shell-*' | grep -c running").Stdout == "0\n"
		})
	})

	for _, c := range []struct {
		of   []string
		says string
	}{{[]string{"--host", "db-7"}, "the host is locked"}, {[]string{"--service-account", "ada"}, "you are locked out"}} {
		t.Run("a lock ends it at once and lets no other begin: "+c.of[0], func(t *testing.T) {
			y := open()
			y.await("recorded")
			id := w.last(t).ID
			var lock struct {
				ID string `json:"id"`
			}
			w.JSON(t, &lock, append([]string{"lock", "create", "--reason", "incident 7"}, c.of...)...)
			s := w.ended(t, id)
			if !strings.Contains(s.EndReason, c.says) || !strings.Contains(s.EndReason, "incident 7") {
				t.Errorf("got %+v", s)
			}
			if code := y.ends(); code == 0 {
				t.Errorf("exit code 0: %s", y.errs.String())
			}
			again := open()
			if code := again.ends(); code != 4 || !strings.Contains(again.errs.String(), c.says) || !strings.Contains(again.errs.String(), "incident 7") {
				t.Errorf("opened while locked: exit code %d: %s", code, again.errs.String())
			}
			w.Must(t, "lock", "lift", lock.ID, "--reason", "over")
			y = open()
			y.type_("exit\n")
			if code := y.ends(); code != 0 {
				t.Errorf("after the lock: exit code %d: %s", code, y.errs.String())
			}
		})
	}

	t.Run("revocation ends it at once", func(t *testing.T) {
		y := open()
		y.await("recorded")
		id := w.last(t).ID
		var bindings struct {
			Items []struct {
				ID       string `json:"id"`
				NotAfter string `json:"notAfter"`
			} `json:"items"`
		}
		w.JSON(t, &bindings, "binding", "list")
		began := time.Now()
		for _, b := range bindings.Items {
			if b.NotAfter != "" {
				w.Must(t, "binding", "delete", b.ID, "--yes")
			}
		}
		s := w.ended(t, id)
		t.Logf("ended %v after the command began", time.Since(began).Round(time.Millisecond))
		if !strings.Contains(s.EndReason, "may not have it any more") {
			t.Errorf("got %+v", s)
		}
		if code := y.ends(); code == 0 {
			t.Errorf("exit code 0: %s", y.errs.String())
		}
	})
}
