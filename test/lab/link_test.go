package lab_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/lab"
)

// lines serves TCP on the network: it sends back each line that it gets.
func lines(t *testing.T, n *lab.Network) (port uint16) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(n.HostAddress().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				io.Copy(connection, connection)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

// dial connects from the machine; what it prints says how that went.
func dial(t *testing.T, m *lab.Machine, n *lab.Network, port uint16) string {
	t.Helper()
	result, err := m.Exec(t.Context(), "timeout", "2", "bash", "-c",
		`exec 3<>/dev/tcp/`+n.HostAddress().String()+`/`+strconv.Itoa(int(port))+` && echo hello >&3 && read -r answer <&3 && echo "got $answer"`)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case result.ExitCode == 124:
		return "timeout"
	case strings.Contains(result.Stderr, "refused"):
		return "refused"
	case strings.Contains(result.Stderr, "unreachable") || strings.Contains(result.Stderr, "No route"):
		return "unreachable"
	default:
		return strings.TrimSpace(result.Stdout + result.Stderr)
	}
}

func TestCutBlackholeAndReject(t *testing.T) {
	n := network(t, "test-faults")
	machines := boot(t, n, "a", "b")
	a, b := machines[0], machines[1]
	port, other := lines(t, n), lines(t, n)
	carrier := func() string { return must(t, a, "sh", "-c", "cat /sys/class/net/eth0/carrier 2>/dev/null || echo 0") }
	sound := func(when string) {
		t.Helper()
		if got := dial(t, a, n, port); got != "got hello" {
			t.Errorf("%s: got %q, want the line back", when, got)
		}
		if !reaches(t, b, a.Address()) {
			t.Errorf("%s: b does not reach a", when)
		}
		if faults, err := a.Faults(); err != nil || faults.Cut || faults.Blackhole || len(faults.Reject) > 0 {
			t.Errorf("%s: got faults %+v, %v, want none", when, faults, err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sound("before")

	do(a.Cut(t.Context()))
	if got := carrier(); got != "0" {
		t.Errorf("cut: carrier %s, want 0", got)
	}
	if reaches(t, b, a.Address()) {
		t.Error("cut: b reaches a")
	}
	if got := dial(t, a, n, port); got != "timeout" && got != "unreachable" {
		t.Errorf("cut: got %q, want timeout or unreachable", got)
	}
	// The fault is the cable's: a reboot does not mend it.
	do(a.Reboot(t.Context()))
	if got := carrier(); got != "0" {
		t.Errorf("cut, after a reboot: carrier %s, want 0", got)
	}
	do(a.Restore(t.Context()))
	sound("after the cut")

	do(a.Blackhole(t.Context()))
	if got := carrier(); got != "1" {
		t.Errorf("black hole: carrier %s, want 1: neither end is told", got)
	}
	if got := dial(t, a, n, port); got != "timeout" && got != "unreachable" {
		t.Errorf("black hole: got %q, want silence", got)
	}
	if reaches(t, b, a.Address()) {
		t.Error("black hole: b reaches a")
	}
	if !reaches(t, b, n.HostAddress()) {
		t.Error("black hole of a: b does not reach this computer")
	}
	do(a.Restore(t.Context()))
	sound("after the black hole")

	do(a.Reject(t.Context(), port))
	if got := dial(t, a, n, port); got != "refused" {
		t.Errorf("reject: got %q, want refused", got)
	}
	if got := dial(t, a, n, other); got != "got hello" {
		t.Errorf("reject: another port: got %q, want the line back", got)
	}
	if got := dial(t, b, n, port); got != "got hello" {
		t.Errorf("reject at a: b got %q, want the line back", got)
	}
	do(a.Reboot(t.Context()))
	if got := dial(t, a, n, port); got != "refused" {
		t.Errorf("reject, after a reboot: got %q, want refused", got)
	}
	do(a.Restore(t.Context()))
	sound("after the reject")
}

func TestRejectResetsOpenConnectionsAtBothEnds(t *testing.T) {
	n := network(t, "test-reset")
	m := boot(t, n, "a")[0]
	listener, err := net.Listen("tcp", net.JoinHostPort(n.HostAddress().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		// Sends until that fails: 9, or 141 where SIGPIPE says so first.
		code, _ := m.Run(ctx, lab.Command{Args: []string{"bash", "-c",
			`exec 3<>/dev/tcp/` + n.HostAddress().String() + `/` + strconv.Itoa(int(port)) + `; while :; do echo more >&3 || exit 9; sleep 0.02; done`}})
		ended <- code
	}()
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := bufio.NewReader(connection).ReadString('\n'); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := m.Reject(ctx, port); err != nil {
		t.Fatal(err)
	}
	// Read to the end only after a write: this end, too, learns of it when it sends.
	_, err = connection.Write([]byte("go\n"))
	if err == nil {
		_, err = io.Copy(io.Discard, connection)
	}
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("this end: got %v, want a reset", err)
	}
	select {
	case code := <-ended:
		if code != 9 && code != 141 {
			t.Errorf("the machine's end: got exit code %d, want 9 or 141: its write failed", code)
		}
	case <-ctx.Done():
		t.Error("the machine's end was not reset")
	}
}

func TestLossAndRate(t *testing.T) {
	n := network(t, "test-loss")
	m := boot(t, n, "a")[0]
	if err := m.Loss(t.Context(), 0.5); err != nil {
		t.Fatal(err)
	}
	// Half of the requests, and half of their answers; six deviations either way. A busy machine loses some of its own, so
	// too few are counted again.
	received := 0
	for range 3 {
		result, err := m.Exec(t.Context(), "ping", "-n", "-q", "-c400", "-i0.002", "-W1", n.HostAddress().String())
		if err != nil {
			t.Fatal(err)
		}
		if received = between(t, result.Stdout, "transmitted, ", " received"); received >= 48 {
			break
		}
	}
	if received < 48 || received > 152 {
		t.Errorf("with half lost each way: %v of 400 came back, want about 100", received)
	}
	if err := m.SetFaults(t.Context(), lab.Faults{Rate: 8_000_000}); err != nil {
		t.Fatal(err)
	}
	must(t, m, "sh", "-c", "head -c 2000000 /dev/zero >/var/tmp/2MB")
	listener, err := net.Listen("tcp", net.JoinHostPort(n.HostAddress().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	received2 := make(chan int64, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			received2 <- -1
			return
		}
		defer connection.Close()
		count, _ := io.Copy(io.Discard, connection)
		received2 <- count
	}()
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	start := time.Now()
	must(t, m, "bash", "-c", "cat /var/tmp/2MB >/dev/tcp/"+n.HostAddress().String()+"/"+port)
	if got := <-received2; got != 2_000_000 {
		t.Errorf("got %d bytes, want 2000000", got)
	}
	// 2 MB at 1 MB/s, less what one burst lets through.
	if took := time.Since(start); took < 1500*time.Millisecond || took > 6*time.Second {
		t.Errorf("2 MB at 8 Mbit/s took %v, want about 2 s", took)
	}
	if err := m.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	result, err := m.Exec(t.Context(), "ping", "-n", "-q", "-c100", "-i0.002", "-W1", n.HostAddress().String())
	if err != nil || between(t, result.Stdout, "transmitted, ", " received") != 100 {
		t.Errorf("restored: got %s, %v, want all 100 back", result.Stdout, err)
	}
}

func between(t *testing.T, text, before, after string) int {
	t.Helper()
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	number, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatalf("no number between %q and %q: %v", before, after, err)
	}
	return number
}

func TestDelay(t *testing.T) {
	n := network(t, "test-delay")
	m := boot(t, n, "a")[0]
	err := m.Delay(t.Context(), 50*time.Millisecond)
	if err != nil {
		// Unsupported must leave the link as it was.
		if !reaches(t, m, n.HostAddress()) {
			t.Error("the link is not as it was")
		}
		var missing *lab.Unsupported
		if errors.As(err, &missing) && hasQueueing("netem") {
			t.Fatalf("got %v, although tc can make a netem discipline", err)
		}
	}
	lab.SkipUnsupported(t, err)
	result, err := m.Exec(t.Context(), "ping", "-n", "-q", "-c3", "-i0.01", "-W2", n.HostAddress().String())
	if err != nil {
		t.Fatal(err)
	}
	_, times, _ := strings.Cut(result.Stdout, "= ")
	least, err := strconv.ParseFloat(strings.Split(times, "/")[0], 64)
	if err != nil || least < 100 || least > 200 {
		t.Errorf("round trip with 50 ms each way: got %v ms, %v, want 100 and little more", least, err)
	}
}

// hasQueueing asks the kernel itself, in a namespace of its own.
func hasQueueing(kind string) bool {
	return exec.Command("unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", kind).Run() == nil
}

func TestFaultsAreChecked(t *testing.T) {
	m := boot(t, network(t, "test-badfault"), "a")[0]
	for _, faults := range []lab.Faults{{Loss: -0.1}, {Loss: 1.1}, {Delay: -1}, {Rate: 7}, {Reject: []uint16{0}}} {
		if err := m.SetFaults(t.Context(), faults); err == nil {
			t.Errorf("%+v was taken", faults)
		}
	}
	if got, err := m.Faults(); err != nil || got.Loss != 0 || got.Delay != 0 || got.Rate != 0 || got.Reject != nil {
		t.Errorf("after refusals: got %+v, %v, want none", got, err)
	}
}
