package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// From sign-in to a machine that is managed, in a real browser, following only what the page says.
func TestAMachineIsEnrolledByWhatTheConsoleSays(t *testing.T) {
	w := newWorld(t, "e2e-console", nil, "web-1")
	node, err := filepath.Abs(filepath.Join("..", "..", "web", "node_modules", ".bin", "node"))
	if err != nil {
		t.Fatal(err)
	}
	out := os.Getenv("CONSOLE_OUT")
	if out == "" {
		out = t.TempDir()
	}
	browser := exec.CommandContext(t.Context(), node, "e2e/enrol.mjs")
	browser.Dir = filepath.Join("..", "..", "web")
	browser.Env = append(os.Environ(), "CONSOLE_URL="+w.URL, "CONSOLE_KEY="+w.Key(), "CONSOLE_OUT="+out)
	var said strings.Builder
	browser.Stderr = &said
	stdout, err := browser.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	var page struct{ Secret, Command string }
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &page) != nil {
		t.Fatalf("the page showed no command: %s %v %s", lines.Text(), browser.Wait(), said.String())
	}
	// A person pastes the token when the command asks for it.
	began := time.Now()
	script := strings.Replace(page.Command, "read -rsp 'token: ' LOOPBACK_TOKEN", "read -r LOOPBACK_TOKEN", 1)
	if r := runInput(t, w.machines["web-1"], page.Secret+"\n", script); r.ExitCode != 0 {
		t.Errorf("exit code %d\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	if err := browser.Wait(); err != nil {
		t.Errorf("the browser: %v %s", err, said.String())
	}
	t.Logf("managed, and seen to be, %s after the command was run", time.Since(began).Round(10*time.Millisecond))
	h := w.Host(t, "web-1")
	if h.State != "managed" || h.Labels["role"] != "web" {
		t.Errorf("the host: got %s with %v", h.State, h.Labels)
	}
}
