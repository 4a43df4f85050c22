package replicas

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/access"
)

// somebody is a service account that may see hosts by one binding alone.
type somebody struct {
	c       *cluster
	account string
	key     string
}

func (c *cluster) somebody() *somebody {
	c.t.Helper()
	d := c.replicas[0]
	a, err := d.Accounts.CreateServiceAccount(c.within(10*time.Second), connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "watcher"}))
	if err != nil {
		c.t.Fatal(err)
	}
	k, err := d.APIKeys.CreateApiKey(c.within(10*time.Second), connect.NewRequest(&pb.CreateApiKeyRequest{Name: "watcher", ServiceAccount: a.Msg.Id, Permissions: []string{"hosts.read"}}))
	if err != nil {
		c.t.Fatal(err)
	}
	return &somebody{c, a.Msg.Id, k.Msg.Secret}
}

func (s *somebody) bind(through int) (binding string) {
	s.c.t.Helper()
	b, err := s.c.replicas[through].Bindings.CreateBinding(s.c.within(10*time.Second), connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: s.account, Role: "member"}))
	if err != nil {
		s.c.t.Fatal(err)
	}
	return b.Msg.Id
}

// asks is what becomes of a call through a replica.
func (s *somebody) asks(through int) error {
	_, err := s.c.replicas[through].As(s.key).Hosts.ListHosts(s.c.within(10*time.Second), connect.NewRequest(&pb.ListHostsRequest{}))
	return err
}

// A binding that ends is refused by every replica, and ends what it had opened on each, whichever of them was told.
func TestARevocationHoldsOnEveryReplica(t *testing.T) {
	c := start(t, 3, "")
	c.agents(3)
	who := c.somebody()
	var ends, refusals []time.Duration
	for round := range 12 {
		binding := who.bind(round % 3)
		for i := range c.replicas {
			c.until(10*time.Second, func() error { return who.asks(i) })
		}
		var open, closed sync.WaitGroup
		var mu sync.Mutex
		var revoked time.Time
		ended := make([]time.Time, len(c.replicas))
		for i, d := range c.replicas {
			s, err := d.As(who.key).Hosts.WatchHosts(c.within(30*time.Second), connect.NewRequest(&pb.WatchHostsRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			open.Add(1)
			closed.Go(func() {
				synced := false
				for s.Receive() {
					if !synced && s.Msg().GetSynced() != nil {
						synced = true
						open.Done()
					}
				}
				mu.Lock()
				ended[i] = time.Now()
				mu.Unlock()
				if code := connect.CodeOf(s.Err()); code != connect.CodePermissionDenied {
					t.Errorf("the stream of replica %d ended with %v", i+1, s.Err())
				}
				_ = s.Close() // it ended
			})
		}
		open.Wait()
		if _, err := c.replicas[(round+1)%3].Bindings.DeleteBinding(c.within(10*time.Second), connect.NewRequest(&pb.DeleteBindingRequest{Binding: binding})); err != nil {
			t.Fatal(err)
		}
		revoked = time.Now()
		for i := range c.replicas {
			took := c.until(10*time.Second, func() error {
				if code := connect.CodeOf(who.asks(i)); code != connect.CodePermissionDenied {
					return fmt.Errorf("replica %d answers %v", i+1, code)
				}
				return nil
			})
			refusals = append(refusals, took)
		}
		closed.Wait()
		for _, at := range ended {
			ends = append(ends, max(0, at.Sub(revoked)))
		}
	}
	slices.Sort(ends)
	slices.Sort(refusals)
	t.Logf("%d streams on three replicas ended %s (median) and %s (the slowest) after the revocation was acknowledged; calls were refused by then or within %s",
		len(ends), ends[len(ends)/2].Round(time.Millisecond), ends[len(ends)-1].Round(time.Millisecond), refusals[len(refusals)-1].Round(time.Millisecond))
}

// A replica that cannot read the database learns of no revocation: within the bound that the documentation names it
// allows nothing, and once it can read again it knows better.
func TestAReplicaThatIsCutOffFromTheDatabaseFailsClosed(t *testing.T) {
	c, ways := startApart(t, 3)
	c.agents(3)
	who := c.somebody()
	binding := who.bind(0)
	for i := range c.replicas {
		c.until(10*time.Second, func() error { return who.asks(i) })
	}
	s, err := c.replicas[2].As(who.key).Hosts.WatchHosts(c.within(2*time.Minute), connect.NewRequest(&pb.WatchHostsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for s.Receive() && s.Msg().GetSynced() == nil {
	}
	streamEnded := make(chan time.Time, 1)
	go func() {
		for s.Receive() {
		}
		streamEnded <- time.Now()
	}()

	ways[2].database.cut()
	cut := time.Now()
	if _, err := c.replicas[0].Bindings.DeleteBinding(c.within(10*time.Second), connect.NewRequest(&pb.DeleteBindingRequest{Binding: binding})); err != nil {
		t.Fatal(err)
	}
	bound := access.StaleAfter + time.Second // docs/guides/access.md
	var last time.Time                       // that it allowed something
	for time.Since(cut) < bound+5*time.Second {
		began := time.Now()
		if err := who.asks(2); err == nil {
			last = began
		}
		if connect.CodeOf(who.asks(1)) != connect.CodePermissionDenied {
			t.Error("the one that reaches the database allows what was revoked")
		}
		c.pause(100 * time.Millisecond)
	}
	if last.Sub(cut) > bound+time.Second { // the machine is shared
		t.Errorf("it allowed what was revoked for %s, want %s at most", last.Sub(cut), bound)
	}
	select {
	case at := <-streamEnded:
		if at.Sub(cut) > bound+time.Second {
			t.Errorf("the stream went on for %s, want %s at most", at.Sub(cut), bound)
		}
		t.Logf("cut off from the database it allowed the last call after %s, and ended the stream after %s", max(0, last.Sub(cut)).Round(100*time.Millisecond), at.Sub(cut).Round(100*time.Millisecond))
	default:
		t.Error("the stream stays open")
	}
	if err := who.asks(2); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("it answers %v, want unavailable: it does not know", err)
	}

	ways[2].database.mend()
	took := c.until(30*time.Second, func() error {
		err := who.asks(2)
		if err == nil {
			t.Fatal("it allows what was revoked while it was cut off")
		}
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			return err
		}
		return nil
	})
	t.Logf("it knew better %s after the network was back", took.Round(100*time.Millisecond))
	c.until(10*time.Second, func() error { return c.managed(c.replicas[2], 3) })
}
