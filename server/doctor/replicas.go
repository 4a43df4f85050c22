package doctor

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	nouns "github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/keys"
	"github.com/loopbackd/loopback/server/replica"
)

// Bounds of what replicas may differ by.
const (
	replicaSilent = 30 * time.Second // longer than a lease
	feedBehind    = 10_000           // changes
	askTimeout    = 5 * time.Second
)

// replicas looks at the other replicas from here: whether they write, answer, go by the same time and follow the changes.
func (x *examination) replicas(ctx context.Context) {
	if !x.Settings.Cluster.On() {
		return
	}
	switch ahead := x.shared.Ahead; {
	case len(x.shared.Replicas) == 0:
		x.skip("replicas", "the database names none yet")
		return
	case ahead.Abs() > nouns.ClockTolerance:
		x.found(Failed, "replica_clock", "clock_apart", "set both clocks by NTP: timedatectl set-ntp true", "this machine's clock is %s ahead of the database's", ahead.Round(time.Millisecond))
	default:
		x.ok("replica_clock", "this machine's clock is %s ahead of the database's", ahead.Round(time.Millisecond))
	}
	k, err := keys.Look(filepath.Join(x.Settings.DataDir, "keys"))
	if err != nil {
		x.skip("replicas", "without this replica's keys the others say nothing: %s", err)
		return
	}
	if _, ok := k.Keyset.Replica(k.Name()); !ok && len(k.Keyset.Replicas) > 0 {
		x.found(Failed, "replicas", "replica_evicted", "invite it again as a new one: loopbackd invite", "the keyset here does not list this replica")
		return
	}
	now := x.now.Add(-x.shared.Ahead) // by the database's clock, which is near the others'
	others, fine := 0, 0
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, r := range x.shared.Replicas {
		if r.Name == k.Name() || r.Beat == 0 {
			continue
		}
		others++
		asking.Go(func() {
			status, code, hint, seen := x.replica(ctx, k, r, now)
			mu.Lock()
			defer mu.Unlock()
			if code == "" {
				fine++
				return
			}
			x.found(status, "replicas", code, hint, "%s %s", r.Name, seen)
		})
	}
	asking.Wait()
	if fine == others {
		x.ok("replicas", "%d others write to the database, answer and are up to date", others)
	}
	if x.Settings.Cluster.Bus != "" {
		x.bus(ctx)
	}
}

// replica looks at one of the others; code is empty where nothing is wrong.
func (x *examination) replica(ctx context.Context, k *keys.Keys, r nouns.Replica, now time.Time) (status Status, code, hint, seen string) {
	if silent := now.Sub(r.SeenAt.Add(-r.ClockOffset)); silent > replicaSilent {
		return Warning, "replica_gone", "look at its machine; where it will not come back: loopbackd evict " + r.Name, "has not written to the database for " + silent.Round(time.Second).String()
	}
	if _, listed := k.Keyset.Replica(r.Name); !listed {
		return Warning, "keyset_old", "a running replica takes the newest keyset up within seconds: look at its log where it does not", "is not listed in the keyset here"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	config, err := k.PeerTLS(r.Name)
	if err != nil {
		return Failed, "keys_missing", "restore a backup: loopbackd restore", err.Error()
	}
	c := replica.Client(config)
	defer c.CloseIdleConnections()
	asked := time.Now()
	about, err := replica.Ask(ctx, c, r.Address)
	if err != nil {
		return Failed, "peer_cut", "open the port of its replica-listen for this machine; is --advertise there what this machine reaches?", "does not answer at " + r.Address + ": " + err.Error()
	}
	if ahead := about.At.Sub(asked.Add(time.Since(asked) / 2)); !about.At.IsZero() && ahead.Abs() > nouns.ClockTolerance {
		return Failed, "clock_apart", "set both clocks by NTP: timedatectl set-ntp true", "has a clock that is " + ahead.Round(time.Millisecond).String() + " ahead of this machine's"
	}
	if r.Routes != "" {
		if err := dial(ctx, r.Routes); err != nil {
			return Warning, "bus_cut", "open the port of its cluster-listen for this machine", "has a bus that cannot be reached at " + r.Routes + ": " + err.Error()
		}
	}
	if behind := x.shared.Position - r.Position; behind > feedBehind {
		return Warning, "feed_behind", "look at its log, and at its way to the database", fmt.Sprintf("has not followed the last %d changes", behind)
	}
	return OK, "", "", ""
}

// bus looks whether one of the servers of the bus outside can be reached.
func (x *examination) bus(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var last error
	for _, one := range strings.Split(x.Settings.Cluster.Bus, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil {
			continue
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "4222")
		}
		if last = dial(ctx, host); last == nil {
			x.ok("bus", "%s can be reached", host)
			return
		}
	}
	x.found(Warning, "bus", "bus_cut", "start that server, or look at the way to it; meanwhile replicas look at the database each second", "the bus outside cannot be reached: %v", last)
}

func dial(ctx context.Context, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}
