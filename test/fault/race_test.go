package fault

import (
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// Many machines race for a token of few uses while a fifth of the answers is lost: each use is one host and one entry.
func TestRacingAgentsTakeEachUseOnce(t *testing.T) {
	random := dice(t)
	var mu sync.Mutex
	n, uses := size(2000, 10_000), size(200, 1000)
	d := start(t, "--enrolment-rate", "5000", "--admission-rate", "5000") // so that they race rather than queue
	id, secret := mint(t, d, uses)
	began := time.Now()
	f := agents(t, d, n, secret, func(_ int, a *fleet.Agent) {
		a.Name = "racer" // all of one name, as machines of one image are
		a.Dialer.Transport = wire.WebSocket
		a.LoseAnswer = func() bool {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(5) == 0
		}
	})
	await(t, f, 15*time.Minute, func(c fleet.Counts) bool { return c.Enrolled+c.Ended >= n && c.Linked >= uses })
	took := time.Since(began)
	counts := f.Counts()
	if counts.Enrolled != uses || counts.Ended != n-uses {
		t.Errorf("got %d enrolled and %d refused, want %d and %d; endings %v", counts.Enrolled, counts.Ended, uses, n-uses, counts.Endings)
	}
	if lost := counts.Endings["answer_lost"]; lost < n/10 {
		t.Errorf("only %d answers were lost", lost)
	}
	ctx := within(t, 2*time.Minute)
	tok, err := d.Tokens.GetToken(ctx, connect.NewRequest(&pb.GetTokenRequest{Token: id}))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Msg; int(got.GetUses()) != uses || got.GetState() != "exhausted" {
		t.Errorf("token: got %d uses, %s; want %d, exhausted", got.GetUses(), got.GetState(), uses)
	}
	hosts, err := d.AllHosts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, h := range hosts {
		if h.GetTokenId() != id {
			t.Errorf("host %s is of token %s", h.GetName(), h.GetTokenId())
		}
		names[h.GetName()] = true
	}
	if len(hosts) != uses || len(names) != uses {
		t.Errorf("got %d hosts of %d names, want %d", len(hosts), len(names), uses)
	}
	for action, target := range map[string]string{"agent_tokens.use": id, "hosts.enrol": ""} {
		entries, err := d.Entries(ctx, action, target)
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		for _, e := range entries {
			if e.GetOutcome() == "done" {
				done++
			}
		}
		if done != uses {
			t.Errorf("audit entries of %s that were done: got %d, want %d", action, done, uses)
		}
	}
	t.Logf("%d agents, %d uses, %d answers lost: %s", n, uses, counts.Endings["answer_lost"], took.Round(time.Millisecond))
}
