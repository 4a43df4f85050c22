package cli_test

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
)

func hostIn(name, state string) *pb.Host { return &pb.Host{Name: name, State: state} }

// A process is a command that runs until it is stopped.
type process struct {
	t     *testing.T
	out   *lines
	stop  context.CancelFunc
	ended chan run
}

func (x *terminal) start(args ...string) *process {
	ctx, stop := context.WithCancel(x.t.Context())
	q := &process{x.t, newLines(), stop, make(chan run, 1)}
	go func() { q.ended <- x.runUntil(ctx, q.out, args...) }()
	x.t.Cleanup(stop)
	return q
}

func (q *process) says(text string) {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(q.t.Context(), 20*time.Second)
	defer cancel()
	q.out.waitFor(q.t, ctx, text)
}

// waits blocks until the control plane is asked for something, or was.
func (q *process) waits(p *controlPlane) {
	q.t.Helper()
	select {
	case <-p.watched:
	case <-time.After(20 * time.Second):
		q.t.Fatal("nobody watches")
	}
}

func (q *process) result() run {
	q.t.Helper()
	select {
	case r := <-q.ended:
		return r
	case <-time.After(20 * time.Second):
		q.t.Fatalf("did not end; it said %q and %q", q.out.text(), q.out.err.text())
		return run{}
	}
}

func TestWatchTellsTransitionsThroughARestart(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "enrolling"), hostIn("web-2", "managed"))
	w := x.start("host", "watch")
	w.says("web-2")
	p.put(hostIn("web-1", "managed"))
	w.says("enrolling → managed")
	p.put(&pb.Host{Name: "web-1", State: "managed", Labels: map[string]string{"a": "b"}}) // no transition
	p.stop()
	p.put(hostIn("web-2", "offline")) // while nobody watches
	p.start(t)
	w.says("managed → offline")
	p.put(hostIn("web-3", "pending"))
	w.says("web-3")
	w.stop()
	r := w.result()
	if r.code != 0 {
		t.Errorf("exit code %d, want 0: the end was asked for", r.code)
	}
	if n := strings.Count(r.out, "\n"); n != 5 {
		t.Errorf("said %d lines, want two hosts, two transitions and one arrival: %q", n, r.out)
	}
	if !strings.Contains(r.err, "trying again") || strings.Count(r.err, "trying again") != 1 {
		t.Errorf("on standard error: %q, want one line about the control plane that was away", r.err)
	}
}

func TestWatchOfChangesOnlyMissesNothingWhileCut(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"), hostIn("web-2", "managed"))
	w := x.start("host", "watch", "--changes-only", "-o", "json")
	w.waits(p)
	p.put(hostIn("web-1", "degraded"))
	w.says("degraded") // it knows what there was before
	p.stop()
	p.put(hostIn("web-2", "offline"))
	p.start(t)
	w.says("offline")
	w.stop()
	type change struct {
		Host          struct{ Name, State string }
		PreviousState string
	}
	out := w.result().out
	var got []change
	for lines := json.NewDecoder(strings.NewReader(out)); lines.More(); {
		var c change
		if err := lines.Decode(&c); err != nil {
			t.Fatalf("got %q: %v", out, err)
		}
		got = append(got, c)
	}
	if len(got) != 2 || got[1].Host.Name != "web-2" || got[1].PreviousState != "managed" {
		t.Errorf("got %q, want a second line: web-2 from managed", out)
	}
}

func TestWatchOfNamesAndOfWhatGoes(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "managed", Labels: map[string]string{"env": "prod"}}, hostIn("web-2", "managed"))
	named := x.start("host", "watch", "web-3", "web-1")
	prod := x.start("host", "watch", "-l", "env=prod")
	named.says("web-1")
	prod.says("web-1")
	p.put(hostIn("web-1", "managed")) // loses its label
	prod.says("gone")
	p.put(hostIn("web-3", "enrolling"))
	named.says("web-3")
	named.stop()
	prod.stop()
	if out := named.result().out; strings.Contains(out, "web-2") {
		t.Errorf("a watch of web-1 and web-3 says %q", out)
	}
	prod.result()
}

func TestWatchEndsByItsTimeout(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"))
	if r := x.run("host", "watch", "--timeout", "300ms"); r.code != 0 || !strings.Contains(r.out, "web-1") {
		t.Errorf("got %+v, want success: the end was asked for", r)
	}
	p.stop()
	if r := x.run("host", "watch", "--timeout", "300ms"); r.code != 7 {
		t.Errorf("got %+v, want exit code 7: the control plane was never there", r)
	}
	x.env["LOOPBACK_API_KEY"] = "lbk_wrong"
	p.start(t)
	x.fails(3, "not signed in", "login", "host", "watch")
}

func TestWaitThroughARestart(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "enrolling"))
	w := x.start("host", "wait", "web-1", "web-2", "--for", "managed", "-o", "json")
	w.waits(p)
	p.put(hostIn("web-1", "managed"))
	p.stop()
	p.put(hostIn("web-2", "managed"))
	p.start(t)
	r := w.result()
	var got struct {
		Items []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || len(got.Items) != 2 || got.Items[1].Name != "web-2" {
		t.Errorf("got %+v (%v), want both hosts", r, err)
	}
}

func TestWaitSaysWhatIsMissing(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"), hostIn("web-2", "pending"), &pb.Host{Name: "db-1", State: "managed", Labels: map[string]string{"role": "db"}})
	x.fails(7, "not managed yet: web-2 is pending, web-9 is not there", "host show", "host", "wait", "web-9", "web-1", "web-2", "--timeout", "2s")
	x.fails(7, "not managed yet: 2 more must come", "host show", "host", "wait", "-l", "role=db", "--count", "3", "--timeout", "2s")
	x.fails(7, "not managed yet: web-2 is pending", "host show", "host", "wait", "-l", "!absent", "--timeout", "2s")
	if out := x.ok("host", "wait", "-l", "role=db", "--count", "1", "--timeout", "10s"); !strings.Contains(out, "db-1") {
		t.Errorf("got %q, want db-1", out)
	}
	if out := x.ok("host", "wait", "web-2", "--for", "pending", "--timeout", "10s"); !strings.Contains(out, "web-2") {
		t.Errorf("got %q, want web-2", out)
	}
	p.stop()
	if r := x.run("host", "wait", "web-1", "--timeout", "2s"); r.code != 7 || !strings.Contains(r.err, "cannot be reached") {
		t.Errorf("with no control plane got %+v, want exit code 7 and why", r)
	}
}

func TestWaitForRemoval(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("old", "removed"), hostIn("live", "managed"), &pb.Host{Id: "hst_1", Name: "twice", State: "removed"}, &pb.Host{Id: "hst_2", Name: "twice", State: "managed"})
	if out := x.ok("host", "wait", "old", "hst_1", "--for", "removed", "--timeout", "10s"); !strings.Contains(out, "hst_old") || !strings.Contains(out, "hst_1") {
		t.Errorf("got %q, want the hosts that were removed before", out)
	}
	x.fails(7, "twice is managed", "host show", "host", "wait", "old", "twice", "--for", "removed", "--timeout", "300ms")
	w := x.start("host", "wait", "live", "--for", "removed")
	w.waits(p)
	p.put(hostIn("live", "removed"))
	if r := w.result(); r.code != 0 {
		t.Errorf("got %+v, want that the removal is seen", r)
	}
}

func TestWaitIsInterrupted(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	w := x.start("host", "wait", "web-1")
	w.waits(p)
	w.stop()
	if r := w.result(); r.code != cli.Interrupted || r.out != "" || !strings.Contains(r.err, "interrupted") {
		t.Errorf("got %+v, want exit code %d", r, cli.Interrupted)
	}
}

func TestAnOperationIsFollowedThroughARestart(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"))
	asked := make(chan struct{})
	p.step = func(o *pb.Operation) {
		select {
		case <-asked:
			o.State = "succeeded"
		default:
			close(asked)
		}
	}
	w := x.start("host", "remove", "web-1", "-o", "json")
	<-asked
	p.stop()
	p.start(t)
	if r := w.result(); r.code != 0 || !strings.Contains(r.out, `"state": "succeeded"`) {
		t.Errorf("got %+v, want the operation that succeeded", r)
	}
}

func TestAnOperationThatFails(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"), hostIn("web-2", "managed"))
	p.step = func(o *pb.Operation) {
		if o.State = "succeeded"; o.Target == "hst_web-2" {
			o.State, o.Error = "failed", &pb.OperationError{Code: "peers_offline", Message: "3 peers are offline"}
		}
	}
	for _, format := range []string{"table", "json"} {
		r := x.run("host", "quarantine", "web-1", "web-2", "-o", format)
		if r.code != 1 || !strings.Contains(r.out, "succeeded") || !strings.Contains(r.err, "loopback: 3 peers are offline") {
			t.Errorf("-o %s: got %+v, want both operations, and exit code 1 for the one that failed", format, r)
		}
		if format == "json" && !json.Valid([]byte(r.out)) {
			t.Errorf("two operations are no JSON: %q", r.out)
		}
	}
	x.ok("token", "mint", "--name", "leaked")
	p.step = func(o *pb.Operation) {
		o.State, o.Error = "failed", &pb.OperationError{Message: "a host cannot be reached"}
	}
	if r := x.run("token", "revoke", "leaked", "--hosts", "expel", "-o", "json"); r.code != 1 || !json.Valid([]byte(r.out)) {
		t.Errorf("a revocation whose operation failed: got %+v, want exit code 1 and the JSON", r)
	}
	p.step = func(*pb.Operation) {} // never ends
	r := x.run("host", "quarantine", "web-1", "--no-wait")
	if r.code != 0 || !strings.Contains(r.out, "running") {
		t.Fatalf("--no-wait: got %+v, want the operation as it begins", r)
	}
	running := regexp.MustCompile(`op_[0-9a-z]+`).FindString(r.out)
	// How far it is may be said before that, or not, in so short a time.
	if r := x.run("operation", "wait", running, "--timeout", "0s1ms"); r.code != 7 || !strings.Contains(r.err, "has not ended yet") || !strings.Contains(r.err, "hint: ") || !strings.Contains(r.err, "loopback operation wait op_") {
		t.Errorf("it never ends: got %+v", r)
	}
}

func TestAuditTailFromAnEmptyLogThroughARestart(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	asked := make(chan struct{}, 10_000)
	p.heard = func(string) { asked <- struct{}{} }
	w := x.start("audit", "tail", "-o", "json")
	<-asked
	<-asked // the first was for the newest entry
	p.write("hosts.add", "one")
	p.write("hosts.add", "two")
	w.says(`"target":"two"`)
	p.stop()
	p.write("hosts.add", "three")
	p.start(t)
	w.says(`"target":"three"`)
	w.stop()
	r := w.result()
	if r.code != 0 || strings.Count(r.out, "\n") != 3 || strings.Index(r.out, "one") > strings.Index(r.out, "two") {
		t.Errorf("got %+v, want three entries in their order, each once", r)
	}
}
