package replicas

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
)

// A grant that is approved by one replica is in force on all of them, and what is revoked by one is refused by all, the streams that
// it carried included. How long that takes is logged, and written for make bench where LOOPBACK_FIGURES says where to.
func TestGrantsAndTheirEndsReachEveryReplica(t *testing.T) {
	rounds := 5
	if os.Getenv("LOOPBACK_FIGURES") != "" {
		rounds = 100
	}
	c := start(t, 3, "", "--caller-rate", "100000")
	// Until the buses have found each other, replicas look once a second.
	c.until(30*time.Second, func() error {
		for _, d := range c.replicas {
			seen, err := d.Replicas.ListReplicas(t.Context(), connect.NewRequest(&pb.ListReplicasRequest{}))
			if err != nil {
				return err
			}
			for _, r := range seen.Msg.Items {
				if r.BusPeers == nil || *r.BusPeers < 2 {
					return fmt.Errorf("the bus of replica %s does not reach the others", r.Name)
				}
			}
		}
		return nil
	})
	admin := c.replicas[0].Client
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "watcher", Permissions: []string{"hosts.read"}})))
	must(admin.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "asker", Permissions: []string{"grants.request", "grants.read", "workspaces.read"}})))
	must(admin.Offers.CreateGrantPolicy(ctx, connect.NewRequest(&pb.CreateGrantPolicyRequest{Name: "watching", Role: "watcher", Approvals: 1})))
	must(admin.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "robot"})))
	must(admin.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: "robot", Role: "asker"})))
	key, err := admin.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "robot", ServiceAccount: "robot", Permissions: []string{"*"}}))
	must(nil, err)
	var robots []*daemon.Client
	for _, d := range c.replicas {
		robots = append(robots, d.As(key.Msg.Secret))
	}
	reads := func(r *daemon.Client) error {
		_, err := r.Hosts.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{Page: &pb.Page{Size: 1}}))
		return err
	}
	// each does something for every replica at once, and gives how long the last took.
	each := func(from time.Time, do func(i int)) time.Duration {
		var all sync.WaitGroup
		for i := range robots {
			all.Go(func() { do(i) })
		}
		all.Wait()
		return time.Since(from)
	}
	var visible, refused, cut []time.Duration
	for round := range rounds {
		asked, err := robots[round%3].Grants.RequestGrant(ctx, connect.NewRequest(&pb.RequestGrantRequest{Role: "watcher", Reason: "measuring"}))
		must(nil, err)
		from := time.Now()
		must(c.replicas[(round+1)%3].Grants.ApproveGrant(ctx, connect.NewRequest(&pb.ApproveGrantRequest{Grant: asked.Msg.Id})))
		visible = append(visible, each(from, func(i int) {
			for end := time.Now().Add(30 * time.Second); reads(robots[i]) != nil; {
				if time.Now().After(end) {
					t.Errorf("replica %d does not know of the grant", i)
					return
				}
			}
		}))
		ended := make([]chan time.Time, len(robots))
		for i, r := range robots {
			stream, err := r.Hosts.WatchHosts(context.WithoutCancel(ctx), connect.NewRequest(&pb.WatchHostsRequest{ChangesOnly: true}))
			must(nil, err)
			if !stream.Receive() {
				t.Fatalf("replica %d: the stream does not begin: %v", i, stream.Err())
			}
			ended[i] = make(chan time.Time, 1)
			go func() {
				for stream.Receive() {
				}
				ended[i] <- time.Now()
				stream.Close()
			}()
		}
		from = time.Now()
		must(c.replicas[(round+2)%3].Grants.RevokeGrant(ctx, connect.NewRequest(&pb.RevokeGrantRequest{Grant: asked.Msg.Id})))
		refused = append(refused, each(from, func(i int) {
			for end := time.Now().Add(30 * time.Second); reads(robots[i]) == nil; {
				if time.Now().After(end) {
					t.Errorf("replica %d goes on allowing what was revoked", i)
					return
				}
			}
		}))
		var last time.Time
		for i := range ended {
			select {
			case at := <-ended[i]:
				if at.After(last) {
					last = at
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("the stream of replica %d goes on after what it rested on was revoked", i)
			}
		}
		cut = append(cut, last.Sub(from))
		if slow := max(visible[round], refused[round], cut[round]); slow > 250*time.Millisecond {
			t.Logf("round %d: in force after %s, refused after %s, cut after %s", round, visible[round], refused[round], cut[round])
		}
	}
	var figures []map[string]any
	for name, took := range map[string][]time.Duration{"approved: in force on three replicas": visible, "revoked: refused by three replicas": refused, "revoked: streams of three replicas cut": cut} {
		slices.Sort(took)
		p99 := took[(len(took)*99+99)/100-1]
		t.Logf("%s: p50 %s, p99 %s of %d", name, took[len(took)/2], p99, len(took))
		figures = append(figures, map[string]any{"name": name + ", p99", "unit": "ms", "value": float64(p99.Microseconds()) / 1000, "runs": len(took)})
	}
	if to := os.Getenv("LOOPBACK_FIGURES"); to != "" {
		b, err := json.Marshal(figures)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		must(nil, err)
	}
	must(nil, whole(c))
}

// whole tells whether every act of the grants is in the log, with what it rests on.
func whole(c *cluster) error {
	entries, err := c.replicas[0].Entries(c.t.Context(), "grants.revoke", "")
	if err == nil && len(entries) == 0 {
		err = fmt.Errorf("no revocation is in the log")
	}
	return err
}
