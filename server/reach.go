package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/loopbackd/loopback/replica"
	replicas "github.com/loopbackd/loopback/server/replica"
)

// Whether a replica can be reached is asked all the time, not found out by the poll of some host: a network that was cut
// says nothing, and a poll waits for its answer for half a minute. One that did not answer twice is not reached until it
// does again: polls that wait for it end, further ones are answered at once, and their hosts begin anew where they get.

const (
	probeEvery   = time.Second
	probeTimeout = 2 * time.Second
	probeFails   = 2 // so many in a row are a verdict; one may be a pause of the machine
)

var errUnreached = errors.New("the replica cannot be reached from here")

// reach is how one of the others was reached lately.
type reach struct {
	fails  int
	up     context.Context // ended while it is not reached
	cut    context.CancelCauseFunc
	client *http.Client
}

func (s *Server) about(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(replicas.About{Replica: s.replica, Version: s.options.Version, At: s.options.Clock().UTC(), Ready: s.stopping.Err() == nil}) // whoever asked is gone
}

func (p *peers) asking(name string) (*http.Client, error) {
	config, err := p.keys.PeerTLS(name)
	if err != nil {
		return nil, err
	}
	return replicas.Client(config), nil
}

// probe asks the others whether they are there until ctx ends.
func (p *peers) probe(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		var all sync.WaitGroup
		for _, r := range p.replicas.All() {
			if !r.Me && r.Address != "" && (r.State == replica.Serving || r.State == replica.Leaving) {
				all.Go(func() { p.probeOne(ctx, r.Name, r.Address) })
			}
		}
		all.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *peers) probeOne(ctx context.Context, name, address string) {
	one, err := p.reachOf(name)
	if err == nil {
		asking, cancel := context.WithTimeout(ctx, probeTimeout)
		_, err = replicas.Ask(asking, one.client, address)
		cancel()
	}
	if one == nil || ctx.Err() != nil {
		return
	}
	if err != nil {
		one.client.CloseIdleConnections() // a new connection may find another way
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		if one.fails = 0; one.up.Err() != nil {
			one.up, one.cut = context.WithCancelCause(context.Background())
		}
		return
	}
	if one.fails++; one.fails == probeFails {
		one.cut(errUnreached)
	}
}

// reachOf is the entry of a replica, which counts as reached until it is found otherwise.
func (p *peers) reachOf(name string) (*reach, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.reach[name]; one != nil {
		return one, nil
	}
	client, err := p.asking(name)
	if err != nil {
		return nil, err
	}
	one := &reach{client: client}
	one.up, one.cut = context.WithCancelCause(context.Background())
	p.reach[name] = one
	return one, nil
}

// reached tells whether a replica answers.
func (p *peers) reached(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.reach[name]
	return one == nil || one.up.Err() == nil
}

// errStopping cuts what another replica holds for callers of this one, which stops: they come again, and get to another.
var errStopping = errors.New("this replica stops")

// whileReached is ctx for as long as a replica can be reached, and this one does not stop; ok is false where it cannot.
func (p *peers) whileReached(ctx context.Context, name string) (_ context.Context, stop func(), ok bool) {
	one, err := p.reachOf(name)
	if err != nil {
		return nil, nil, false
	}
	p.mu.Lock()
	up := one.up
	p.mu.Unlock()
	if up.Err() != nil {
		return nil, nil, false
	}
	while, end := context.WithCancelCause(ctx)
	detach := context.AfterFunc(up, func() { end(errUnreached) })
	stay := context.AfterFunc(p.stopping, func() { end(errStopping) })
	return while, func() { detach(); stay(); end(nil) }, true
}
