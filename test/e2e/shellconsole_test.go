package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A shell in a real browser on a real machine, opened by somebody who was invited and made a passkey.
func TestAShellInABrowser(t *testing.T) {
	w := newWorld(t, "e2e-shell-console", []string{"--tls-name", "localhost"}, "db-7")
	token := w.Mint(t)
	if r := install(t, w.machines["db-7"], token.InstallCommand, token.Secret, "--allow-shell"); r.ExitCode != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	w.AwaitState(t, "db-7", "managed", 20*time.Second)
	sheller(t, w, "browser")
	w.Must(t, "user", "create", "ada")
	w.Must(t, "binding", "create", "--user", "ada", "--role", "browser", "--everywhere", "--not-after", "1h")
	w.Rename(t, named(t, w.URL)) // a passkey is one of a name
	var invited struct{ URL string }
	w.JSON(t, &invited, "user", "invite", "ada")
	w.AwaitState(t, "db-7", "managed", 20*time.Second)
	node, err := filepath.Abs(filepath.Join("..", "..", "web", "node_modules", ".bin", "node"))
	if err != nil {
		t.Fatal(err)
	}
	out := os.Getenv("CONSOLE_OUT")
	if out == "" {
		out = t.TempDir()
	}
	browser := exec.CommandContext(t.Context(), node, "e2e/shell.mjs")
	browser.Dir = filepath.Join("..", "..", "web")
	browser.Env = append(os.Environ(), "CONSOLE_URL="+strings.SplitN(invited.URL, "/invite", 2)[0], "CONSOLE_INVITATION="+invited.URL, "CONSOLE_OUT="+out, "CONSOLE_HOST=db-7")
	said, err := browser.CombinedOutput()
	if err != nil {
		t.Fatalf("the browser: %v\n%s", err, said)
	}
	t.Logf("in milliseconds: %s", said)
}

// named leads to a control plane in the lab by this machine's own name, under which Chromium takes passkeys.
func named(t *testing.T, url string) string {
	t.Helper()
	target := strings.TrimPrefix(url, "https://")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from) // either end's end is the other's
				_ = to.Close()
			}
			go pipe(near, far)
			go pipe(far, near)
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://localhost:" + port
}
