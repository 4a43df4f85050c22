// Package systemd tells the service manager how the agent is: ready, alive, stopping, and in one line what it does.
//
// The protocol is that of sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Started by hand there is no
// such socket, and everything here does nothing.
//
// The watchdog is fed only while the main loops keep their promises. A loop that begins something says by when it will be
// back at the latest. As long as no promise is broken the agent is making progress, however long a single step may take;
// a loop that hangs breaks its promise, the watchdog goes hungry, and systemd starts the agent anew.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Notifier speaks to the service manager. The zero value speaks to nobody.
type Notifier struct {
	socket   string        // path, or abstract name with a leading '@'
	watchdog time.Duration // how often it must be fed; 0: not at all

	mu       sync.Mutex
	promises map[string]time.Time // by loop: when it will be back; guarded by mu
}

// FromEnvironment makes a Notifier of NOTIFY_SOCKET and WATCHDOG_USEC. getenv is os.Getenv outside tests.
func FromEnvironment(getenv func(string) string) *Notifier {
	n := &Notifier{socket: getenv("NOTIFY_SOCKET")}
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n
	}
	if us, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// Ready says that the agent has started.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that it has begun to stop.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Status shows a line in `systemctl status`.
func (n *Notifier) Status(line string) error {
	return n.send("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

func (n *Notifier) send(message string) error {
	if n.socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Promise says that a loop will be back within d, with another promise or with Rest.
func (n *Notifier) Promise(loop string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.promises == nil {
		n.promises = map[string]time.Time{}
	}
	n.promises[loop] = time.Now().Add(d)
}

// Rest says that a loop waits for something to do, or has ended; nothing is expected of it.
func (n *Notifier) Rest(loop string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.promises, loop)
}

// Broken names a loop that is overdue; empty: none is.
func (n *Notifier) Broken() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for loop, by := range n.promises {
		if now.After(by) {
			return loop
		}
	}
	return ""
}

// Feed feeds the watchdog until ctx ends, as long as no promise is broken. hungry is told the loop that is overdue, once.
func (n *Notifier) Feed(ctx context.Context, hungry func(loop string)) {
	if n.watchdog == 0 {
		return
	}
	ticks := time.NewTicker(n.watchdog / 3)
	defer ticks.Stop()
	told := ""
	for {
		if loop := n.Broken(); loop == "" {
			if err := n.send("WATCHDOG=1"); err != nil && told == "" {
				told = err.Error()
				hungry(told)
			}
		} else if told == "" {
			told = loop
			hungry(loop)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}
