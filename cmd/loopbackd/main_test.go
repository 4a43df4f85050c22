package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopbackd-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// loopbackd runs the program to its end.
func loopbackd(t *testing.T, env []string, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("loopbackd %v: %v %v", args, err, ctx.Err())
	}
	return c.ProcessState.ExitCode(), o.String(), e.String()
}

func start(t *testing.T, args ...string) *daemon.Daemon {
	t.Helper()
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: t.TempDir(), Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestCheckNamesEachWrongSetting(t *testing.T) {
	for name, value := range map[string]string{
		"LISTEN": "8443", "METRICS_LISTEN": "here", "PUBLIC_URL": "http://plain", "TLS_CERTIFICATE": "x.pem", "TRUSTED_PROXY": "10.0.0",
		"DATABASE": "mysql://x", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "TOKEN_DEFAULT_TTL": "3s", "TOKEN_LONG_TTL": "2m", "TOKEN_MAX_TTL": "1m",
		"TOKEN_DEFAULT_MAX_USES": "none", "TOKEN_MAX_USES": "0", "RECONNECT_WINDOW": "1s", "HEARTBEAT_RATE": "0", "ADMISSION_RATE": "-1",
		"ENROLMENT_RATE": "0", "SHUTDOWN_TIMEOUT": "0s", "DATA_DIR": "/proc/1/nowhere",
	} {
		data := filepath.Join(t.TempDir(), "data")
		env := []string{"LOOPBACKD_" + name + "=" + value}
		if name != "DATA_DIR" {
			env = append(env, "LOOPBACKD_DATA_DIR="+data)
		}
		code, out, errs := loopbackd(t, env, "check")
		where := "LOOPBACKD_" + name
		if name == "DATA_DIR" {
			where = "--data-dir"
		}
		if code != 2 || !strings.Contains(errs, where) || out != "" {
			t.Errorf("%s=%s: got code %d, %q, %q; want 2 and the name of the setting", name, value, code, out, errs)
		}
		if _, err := os.Stat(data); err == nil {
			t.Errorf("%s=%s: checking made %s", name, value, data)
		}
		if code, _, _ := loopbackd(t, env, "serve"); name != "DATA_DIR" && code != 2 { // one that is right would run on, and be killed
			t.Errorf("%s=%s: serve got code %d, want 2", name, value, code)
		}
	}
	code, out, errs := loopbackd(t, nil, "check", "--data-dir", filepath.Join(t.TempDir(), "data"))
	if code != 0 || !strings.HasPrefix(out, "the settings are valid\n") || errs != "" {
		t.Errorf("right settings: got code %d, %q, %q", code, out, errs)
	}
}

func TestUsageErrorsExitWith2(t *testing.T) {
	for _, args := range [][]string{{"serve", "--no-such-flag"}, {"no-such-command"}, {"serve", "--heartbeat-rate", "many"}, {"serve", "extra"}, {"backup"}, {"restore"}} {
		code, _, errs := loopbackd(t, nil, args...)
		if code != 2 || strings.Count(strings.TrimSpace(errs), "\n") > 1 || !strings.HasPrefix(errs, "loopbackd: ") {
			t.Errorf("%v: got code %d, %q; want 2 and a line that says why", args, code, errs)
		}
	}
}

func TestASecondServeOnTheSameDataIsRefused(t *testing.T) {
	d := start(t)
	code, _, errs := loopbackd(t, nil, "serve", "--data-dir", d.DataDir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	if code != 6 || !strings.Contains(errs, "another loopbackd runs on "+d.DataDir) || !strings.Contains(errs, "hint: ") {
		t.Errorf("got code %d, %q; want 6", code, errs)
	}
	if _, err := d.Mint(t.Context(), 1); err != nil {
		t.Errorf("the first one: %v", err)
	}
	// A lock that a kill left behind keeps nobody out.
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Restart(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestATakenPortIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, flag := range []string{"--listen", "--metrics-listen"} {
		args := []string{"serve", "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--metrics-listen", "off", flag, l.Addr().String()}
		code, _, errs := loopbackd(t, nil, args...)
		if code != 7 || !strings.Contains(errs, l.Addr().String()) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: got code %d, %q; want 7, the address and a hint", flag, code, errs)
		}
	}
}

// With streams open and agents linked, both signals end it in order, soon and with code 0; the next start is quick.
func TestSignalsEndItInOrder(t *testing.T) {
	d := start(t)
	minted, err := d.Mint(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		agents := fleet.Run(t.Context(), 5, 0, func(i int) *fleet.Agent {
			return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: minted.GetSecret()}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := agents.Wait(ctx, func(c fleet.Counts) bool { return c.Linked == 5 }); err != nil {
			t.Error(err)
		}
		stream, err := d.Hosts.WatchHosts(ctx, connect.NewRequest(&pb.WatchHostsRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() {
			t.Errorf("the stream: %v", stream.Err())
		}
		began := time.Now()
		if err := d.Signal(signal); err != nil {
			t.Fatal(err)
		}
		for stream.Receive() { // until it is ended from there
		}
		if code := d.ExitCode(); code != 0 {
			t.Errorf("%s: got exit code %d, want 0", signal, code)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %s to end, with one stream open", signal, took)
		} else {
			t.Logf("%s: ended in %s", signal, took.Round(time.Millisecond))
		}
		_ = stream.Close()
		agents.Stop()
		if told := agents.Counts().Endings; told["server_stopping"] != 5 {
			t.Errorf("%s: agents saw %v, want 5 times server_stopping", signal, told)
		}
		cancel()
		began = time.Now()
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("ready again in %s", time.Since(began).Round(time.Millisecond))
	}
	log, err := d.Log()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log, "level=ERROR") || strings.Count(log, "msg=stopped") != 2 {
		t.Errorf("the log: got %s", log)
	}
}
