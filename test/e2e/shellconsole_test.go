package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A shell in a real browser on a real machine.
func TestAShellInABrowser(t *testing.T) {
	w := newWorld(t, "e2e-shell-console", nil, "db-7")
	token := w.Mint(t)
	if r := install(t, w.machines["db-7"], token.InstallCommand, token.Secret, "--allow-shell"); r.ExitCode != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	w.AwaitState(t, "db-7", "managed", 20*time.Second)
	key := sheller(t, w, "browser")
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
	browser.Env = append(os.Environ(), "CONSOLE_URL="+w.URL, "CONSOLE_KEY="+key, "CONSOLE_OUT="+out, "CONSOLE_HOST=db-7")
	said, err := browser.CombinedOutput()
	if err != nil {
		t.Fatalf("the browser: %v\n%s", err, said)
	}
	t.Logf("in milliseconds: %s", said)
}
