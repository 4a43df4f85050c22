package install_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tripwires fills a folder with programs that write their name to a log: every word of the script, and every beginning
// of the first ones, as a cut script might mistake for a command.
func tripwires(t *testing.T, script []byte) (folder, log string) {
	t.Helper()
	folder, log = filepath.Join("/srv", "bin"), filepath.Join("/srv", "ran")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	wire := []byte("#!/bin/dash\necho \"$0 $*\" >>" + log + "\n")
	words := map[string]bool{}
	for _, w := range regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_-]*`).FindAllString(string(script), -1) {
		for n := 1; n <= min(len(w), 12); n++ {
			words[w[:n]] = true
		}
		if len(w) < 64 {
			words[w] = true
		}
	}
	if err := os.WriteFile(filepath.Join("/srv", "wire"), wire, 0o755); err != nil {
		t.Fatal(err)
	}
	for w := range words {
		if err := os.Symlink("/srv/wire", filepath.Join(folder, w)); err != nil {
			t.Fatal(err)
		}
	}
	return folder, log
}

func TestScriptCutAtEveryByteHasNoSideEffect(t *testing.T) {
	if !sandbox(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWIPC|syscall.CLONE_NEWUTS) {
		return
	}
	script := newScript(t)
	folder, log := tripwires(t, script)
	// One that is on the way to be run shows that the wires work.
	if err := exec.Command("/bin/dash", "-c", "PATH="+folder+"; mkdir x").Run(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "mkdir x") {
		t.Fatalf("the wires do not work: %q, %v", b, err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	before := traces(t)
	const secret = "lbt_00000000000000000000000000_thetoken"
	end := bytes.LastIndexByte(script, '}') // with it the script is whole
	for _, sh := range shells(t) {
		t.Run(sh.name, func(t *testing.T) {
			step := 1
			if testing.Short() || strings.HasPrefix(sh.name, "bash") { // bash takes four times as long to start
				step = 41
			}
			var cuts []int
			for n := 0; n <= end; n++ {
				if n%step == 0 || n < 300 || n > end-300 {
					cuts = append(cuts, n)
				}
			}
			work := make(chan int)
			var workers sync.WaitGroup
			for range runtime.GOMAXPROCS(0) {
				workers.Go(func() {
					for n := range work {
						if wrong := runCut(sh, folder, script[:n], secret); wrong != "" {
							t.Errorf("cut after %d bytes (%q): %s", n, tail(script[:n]), wrong)
						}
					}
				})
			}
			for _, n := range cuts {
				work <- n
			}
			close(work)
			workers.Wait()
			if b, err := os.ReadFile(log); err == nil {
				t.Errorf("commands ran: %s", b)
			}
			if after := traces(t); after != before {
				t.Errorf("files changed: got\n%s\nwanted\n%s", after, before)
			}
			t.Logf("%d cuts of a script of %d bytes", len(cuts), len(script))
		})
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-40):] }

// runCut feeds a piece of the script to a shell as a pipe does, and says what went wrong.
func runCut(sh shell, folder string, piece []byte, secret string) string {
	c := exec.Command(sh.argv[0], sh.argv[1:]...)
	c.Env = []string{"PATH=" + folder, "LOOPBACK_TOKEN=" + secret, "HOME=/root"}
	c.Dir = "/root"
	c.Stdin = bytes.NewReader(piece)
	var out, problem bytes.Buffer
	c.Stdout, c.Stderr = &out, &problem
	err := c.Run()
	switch {
	case out.Len() > 0:
		return fmt.Sprintf("it wrote %q", out.String())
	case strings.Contains(problem.String(), secret):
		return "it shows the token"
	case err == nil && bytes.ContainsRune(piece, '{'):
		return "it ended as if all were well"
	}
	return ""
}
