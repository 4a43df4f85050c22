package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/controltest"
)

// The agent for arm64 does all that the native one does: it is emulated instruction by instruction, its system calls are
// this kernel's.
func TestARM64AgentUnderEmulation(t *testing.T) {
	if runtime.GOARCH == "arm64" {
		t.Skip("this machine runs it natively, in every other test")
	}
	emulator, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("qemu-aarch64-static is not installed (package qemu-user-static)")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "loopback-agent-arm64")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var control controltest.Server
	control.Start(t)
	h := enrol(t, &control, time.Hour)
	h.program = filepath.Join(dir, "loopback-agent")
	if err := os.WriteFile(h.program, fmt.Appendf(nil, "#!/bin/sh\nexec %s %s \"$@\"\n", emulator, program), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := h.command("version").Output(); err != nil || strings.TrimSpace(string(out)) != "1.2.3" {
		t.Errorf("version: got %s, %v, wanted 1.2.3", out, err)
	}
	if _, code := h.status(t, "0s"); code != 7 {
		t.Errorf("status without an agent: got exit code %d, wanted 7", code)
	}
	control.Desire(compiled(t, 1))
	agent := h.run()
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = agent.Process.Kill()
			_ = agent.Wait()
		}
	}()
	r, code := h.status(t, "60s")
	if code != 0 || !r.OK || r.HostID != h.id || r.Version != "1.2.3" {
		t.Errorf("got %+v, exit code %d, wanted it linked and all well", r, code)
	}
	out, err := h.command("doctor", "--config", h.config, "--state-dir", h.state, "--socket", h.socket).CombinedOutput()
	if err != nil {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	t.Logf("doctor says:\n%s", out)
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err, ended = agent.Wait(), true
	if err != nil {
		t.Errorf("after SIGTERM: %v, wanted exit code 0", err)
	}
}
