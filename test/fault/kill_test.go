package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// ledger is what the control plane has acknowledged.
type ledger struct {
	count atomic.Int64 // of all that follows

	mu         sync.Mutex
	stir       chan struct{}
	tokens     []string
	workspaces []string
	hosts      []string
	labels     map[string]int // by host: the last number acknowledged, which is also how many were
}

func (l *ledger) note(by func()) {
	l.mu.Lock()
	by()
	l.count.Add(1)
	close(l.stir)
	l.stir = make(chan struct{})
	l.mu.Unlock()
}

// await returns when so many were acknowledged.
func (l *ledger) await(ctx context.Context, n int64) error {
	for {
		l.mu.Lock()
		stir := l.stir
		l.mu.Unlock()
		if l.count.Load() >= n {
			return nil
		}
		select {
		case <-stir:
		case <-ctx.Done():
			return fmt.Errorf("%d changes were acknowledged, %d are waited for: %w", l.count.Load(), n, ctx.Err())
		}
	}
}

// write keeps changing things, from several sides, until ctx ends. What fails is not acknowledged, so nothing is owed.
func (l *ledger) write(ctx context.Context, d *daemon.Daemon, secret string, linked []string) *sync.WaitGroup {
	var writers sync.WaitGroup
	keep := func(do func(ctx context.Context, n int) error) {
		writers.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				call, cancel := context.WithTimeout(ctx, 5*time.Second)
				err := do(call, n)
				cancel()
				if err == nil {
					continue
				}
				select { // it is away: do not spin
				case <-time.After(10 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	for range 2 {
		keep(func(ctx context.Context, _ int) error {
			m, err := d.Mint(ctx, 1)
			if err == nil {
				l.note(func() { l.tokens = append(l.tokens, m.GetToken().GetId()) })
			}
			return err
		})
	}
	keep(func(ctx context.Context, n int) error {
		w, err := d.Workspaces.CreateWorkspace(ctx, connect.NewRequest(&pb.CreateWorkspaceRequest{Project: "default", Name: "w" + strconv.Itoa(n)}))
		if err == nil {
			l.note(func() { l.workspaces = append(l.workspaces, w.Msg.GetId()) })
		}
		return err
	})
	for _, id := range linked[:4] {
		keep(func(ctx context.Context, n int) error {
			l.mu.Lock()
			next := l.labels[id] + 1
			l.mu.Unlock()
			_, err := d.Hosts.LabelHost(ctx, connect.NewRequest(&pb.LabelHostRequest{Host: id, Set: map[string]string{"count": strconv.Itoa(next)}}))
			if err == nil {
				l.note(func() { l.labels[id] = next })
			}
			return err
		})
	}
	for w := range 2 {
		keep(func(ctx context.Context, n int) error {
			a := &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, n), Token: secret, Name: fmt.Sprintf("new-%d-%d", w, n), Version: "0.0.0-simulated", BootID: "b"}
			err := a.Enrol(ctx)
			if err == nil {
				l.note(func() { l.hosts = append(l.hosts, a.HostID()) })
			}
			return err
		})
	}
	return &writers
}

// owed is what was acknowledged from these positions on.
func (l *ledger) owed(tokens, workspaces, hosts int) (t, w, h []string, labels map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	labels = map[string]int{}
	for id, n := range l.labels {
		labels[id] = n
	}
	return l.tokens[tokens:], l.workspaces[workspaces:], l.hosts[hosts:], labels
}

// A change that was acknowledged is there after a SIGKILL, with its audit entry; nobody is shown offline for our sake.
func TestKillsUnderWritesLoseNothing(t *testing.T) {
	random := dice(t)
	const window = 10 * time.Second
	d := start(t, "--reconnect-window", window.String())
	_, secret := mint(t, d, 100_000)
	f := agents(t, d, 20, secret, nil)
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == 20 })
	var linked []string
	ours := map[string]bool{}
	for _, a := range f.Agents {
		linked, ours[a.HostID()] = append(linked, a.HostID()), true
	}

	offline := make(chan string, 100)
	watching, stop := context.WithCancel(t.Context())
	watched := watch(watching, d, ours, offline)
	defer func() { stop(); watched.Wait() }()

	losesNothing(t, d, random, secret, linked, size(10, 200), func() {
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
	})
	// Nobody is declared offline after the window of the last start either: agents had come back.
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == 20 })
	select {
	case <-time.After(window + 5*time.Second):
	case <-t.Context().Done():
	}
	stop()
	watched.Wait()
	close(offline)
	for o := range offline {
		t.Errorf("shown offline because of us: %s", o)
	}
}

// losesNothing changes things from several sides while the control plane is brought down again and again, and finds
// every acknowledged change after each start, and at the end with its audit entry.
func losesNothing(t *testing.T, d *daemon.Daemon, random *rand.Rand, secret string, linked []string, times int, down func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &ledger{stir: make(chan struct{}), labels: map[string]int{}}
	writers := l.write(ctx, d, secret, linked)
	defer func() { cancel(); writers.Wait() }()

	var tokens, workspaces, hosts int
	var slowest time.Duration
	for k := range times {
		more := int64(20 + random.IntN(400))
		if err := l.await(within(t, time.Minute), l.count.Load()+more); err != nil {
			t.Fatal(err)
		}
		down()
		owedTokens, owedWorkspaces, owedHosts, labels := l.owed(tokens, workspaces, hosts)
		began := time.Now()
		if err := d.Restart(t.Context()); err != nil {
			t.Fatalf("restart %d: %v", k, err)
		}
		slowest = max(slowest, time.Since(began))
		tokens, workspaces, hosts = tokens+len(owedTokens), workspaces+len(owedWorkspaces), hosts+len(owedHosts)
		there(t, d, owedTokens, owedWorkspaces, owedHosts, labels)
	}
	cancel()
	writers.Wait()
	allTokens, allWorkspaces, allHosts, labels := l.owed(0, 0, 0)
	there(t, d, allTokens, allWorkspaces, allHosts, labels)
	audited(t, d, allTokens, allWorkspaces, allHosts, labels)
	t.Logf("down %d times; %d tokens, %d workspaces, %d hosts, %v labels acknowledged, none lost; slowest start %s", times, len(allTokens), len(allWorkspaces), len(allHosts), labels, slowest)
}

// watch follows the hosts through every restart and tells who is shown offline.
func watch(ctx context.Context, d *daemon.Daemon, ours map[string]bool, offline chan<- string) *sync.WaitGroup {
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			s, err := d.Hosts.WatchHosts(ctx, connect.NewRequest(&pb.WatchHostsRequest{}))
			if err == nil {
				for s.Receive() {
					h := s.Msg().GetChanged().GetHost()
					if ours[h.GetId()] && h.GetState() == "offline" {
						select {
						case offline <- h.GetName() + ": " + h.GetReason():
						default:
						}
					}
				}
				_ = s.Close() // it ended
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return &running
}

// there finds every acknowledged change.
func there(t *testing.T, d *daemon.Daemon, tokens, workspaces, hosts []string, labels map[string]int) {
	t.Helper()
	ctx := within(t, 5*time.Minute)
	// Writing goes on meanwhile: looked for one by one, they would be caught up with late.
	each(len(tokens), 16, func(i int) {
		if _, err := d.Tokens.GetToken(ctx, connect.NewRequest(&pb.GetTokenRequest{Token: tokens[i]})); err != nil {
			t.Errorf("acknowledged token %s is lost: %v", tokens[i], err)
		}
	})
	each(len(workspaces), 16, func(i int) {
		if _, err := d.Workspaces.GetWorkspace(ctx, connect.NewRequest(&pb.GetWorkspaceRequest{Workspace: workspaces[i]})); err != nil {
			t.Errorf("acknowledged workspace %s is lost: %v", workspaces[i], err)
		}
	})
	each(len(hosts), 16, func(i int) {
		if _, err := d.Hosts.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Host: hosts[i]})); err != nil {
			t.Errorf("acknowledged host %s is lost: %v", hosts[i], err)
		}
	})
	for id, want := range labels {
		h, err := d.Hosts.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Host: id}))
		if err != nil {
			t.Errorf("labelled host %s: %v", id, err)
			continue
		}
		if got, _ := strconv.Atoi(h.Msg.GetLabels()["count"]); got < want {
			t.Errorf("label of %s: got %d, want at least %d, which was acknowledged", id, got, want)
		}
	}
}

// audited finds an entry for every acknowledged change, and no gap in the log.
func audited(t *testing.T, d *daemon.Daemon, tokens, workspaces, hosts []string, labels map[string]int) {
	t.Helper()
	all, err := d.Entries(within(t, 5*time.Minute), "", "")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for i, e := range all {
		seen[e.GetAction()+" "+e.GetTarget()]++
		if i > 0 && all[i-1].GetPosition() != e.GetPosition()+1 {
			t.Errorf("the audit log goes from %d to %d", all[i-1].GetPosition(), e.GetPosition())
		}
	}
	for action, targets := range map[string][]string{"agent_tokens.mint": tokens, "workspaces.create": workspaces, "hosts.enrol": hosts} {
		for _, id := range targets {
			if n := seen[action+" "+id]; n != 1 {
				t.Errorf("audit entries of %s %s: got %d, want 1", action, id, n)
			}
		}
	}
	for id, n := range labels {
		if got := seen["hosts.label "+id]; got < n {
			t.Errorf("audit entries of hosts.label %s: got %d, want at least %d", id, got, n)
		}
	}
}
