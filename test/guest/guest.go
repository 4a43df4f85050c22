// Package guest boots a real virtual machine: Debian's kernel and systemd, with a clock of its own.
//
// Machines of package lab are quicker, but share this computer's kernel and clock. A guest is run by qemu's emulator,
// since hardware virtualisation is not to be had everywhere, and takes ten seconds or more to boot. Its disk is lab's
// Debian image, thrown away at the end. Its network is qemu's: it reaches this computer's loopback addresses as Host, and
// nothing else is there. A guest dies with the process that started it.
package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/lab"
)

// Host is where a guest finds what listens on 127.0.0.1 of this computer.
var Host = netip.MustParseAddr("10.0.2.2")

// Guest is a virtual machine that has booted.
type Guest struct {
	shell *bufio.ReadWriter
	conn  net.Conn
}

// bootTime bounds a boot. Emulated, on a computer that is busy with other tests too.
const bootTime = 4 * time.Minute

// Start boots a guest for the length of the test, or skips the test with the name of what is missing.
func Start(t testing.TB) *Guest {
	t.Helper()
	if testing.Short() || os.Getenv("LOOPBACK_TEST_SHORT") != "" {
		t.Skip("virtual machines are left out of the short tests")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the guest's kernel is for amd64")
	}
	lab.Require(t)
	files, err := prepare(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "guest") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, console := filepath.Join(dir, "shell"), filepath.Join(dir, "console")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	qemu := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(files, "kernel"), "-initrd", filepath.Join(files, "initramfs"),
		"-append", "console=ttyS0 quiet random.trust_cpu=on net.ifnames=0 panic=-1 systemd.mask=serial-getty@ttyS0.service",
		"-drive", "file="+filepath.Join(files, "disk")+",format=raw,if=virtio,snapshot=on",
		"-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-serial", "file:"+console, "-serial", "unix:"+socket)
	var said bytes.Buffer
	qemu.Stdout, qemu.Stderr = &said, &said
	ended := make(chan struct{})
	started := make(chan error)
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go func() { // the parent's death is that of the thread that started it: this one waits, so it lives as long
		defer close(ended)
		runtime.LockOSThread()
		err := qemu.Start()
		started <- err
		if err == nil {
			_ = qemu.Wait() // killed, as a rule
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	g := &Guest{}
	t.Cleanup(func() {
		_ = qemu.Process.Kill() // it may have ended
		<-ended
		if g.conn != nil {
			g.conn.Close()
		}
		if text, err := os.ReadFile(console); t.Failed() && err == nil {
			t.Logf("end of the guest's console:\n%s%s", said.String(), text[max(0, len(text)-3000):])
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	if err := g.await(ctx, listener.(*net.UnixListener), ended); err != nil {
		t.Fatalf("the guest does not boot: %v", err)
	}
	return g
}

func (g *Guest) await(ctx context.Context, l *net.UnixListener, ended <-chan struct{}) error {
	watched, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-ended:
			_ = l.SetDeadline(time.Now())
		case <-watched.Done():
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := l.SetDeadline(deadline); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	g.conn, g.shell = conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	line, err := g.shell.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != "ready" {
		return fmt.Errorf("its shell says %q", line)
	}
	return conn.SetDeadline(time.Time{})
}

// Run runs a shell script as root and returns what it printed, and its exit code. One runs at a time.
func (g *Guest) Run(ctx context.Context, script string) (output string, code int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = g.conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := g.shell.WriteString(base64.StdEncoding.EncodeToString([]byte(script)) + "\n"); err != nil {
		return "", 0, err
	}
	if err := g.shell.Flush(); err != nil {
		return "", 0, err
	}
	line, err := g.shell.ReadString('\n')
	if err != nil {
		return "", 0, errors.Join(err, ctx.Err())
	}
	status, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	if code, err = strconv.Atoi(status); err != nil {
		return "", 0, fmt.Errorf("the guest's shell says %q", line)
	}
	out, err := base64.StdEncoding.DecodeString(text)
	return string(out), code, err
}
