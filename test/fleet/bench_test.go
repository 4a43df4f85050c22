package fleet

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
)

func TestMain(m *testing.M) {
	if os.Getenv(HelperEnvironment) != "" {
		if err := HelperMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// BenchmarkAgents holds agents that live in another process and tells what each costs this one: memory without a forced
// collection, server CPU to enrol and link (two handshakes), and server CPU for a heartbeat answered.
func BenchmarkAgents(b *testing.B) {
	n := 5000
	if s := os.Getenv("AGENTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		debug.FreeOSMemory() // of what ran before
		c := newControl(b, &linktest.Fleet{}, func(o *link.Options) { o.AdmissionRate = 1 << 20 })
		want(b, c.Fleet, "info")
		memory, cpu, start := resident(b), processorTime(b), time.Now()
		h, err := StartHelper(b.Context(), c.Mission(n))
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Linked(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "enrolled+linked/s")
		b.ReportMetric((processorTime(b)-cpu).Seconds()*1e6/float64(n), "µs-CPU/enrol+link")
		b.ReportMetric(float64(resident(b)-memory)/float64(n), "RSS-B/agent")

		c.Fleet.SetBounds(time.Second, time.Second)
		pause(b, 12*time.Second) // the agents hear of the new interval with their next heartbeat
		before, cpu := c.Hub.Heartbeats(), processorTime(b)
		pause(b, 5*time.Second)
		spent := (processorTime(b) - cpu).Seconds()
		beats := float64(c.Hub.Heartbeats() - before)
		b.ReportMetric(beats/5, "heartbeats/s")
		b.ReportMetric(spent*1e6/beats, "µs-CPU/heartbeat")
		b.ReportMetric(beats/spent, "heartbeats/s/core")
		b.ReportMetric(float64(resident(b)-memory)/float64(n), "RSS-B/agent-after-heartbeats")
		if err := h.Stop(); err != nil {
			b.Error(err)
		}
	}
}

// pause lets the measured thing run: time is what is measured against.
func pause(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
		b.Fatal(b.Context().Err())
	}
}

func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
