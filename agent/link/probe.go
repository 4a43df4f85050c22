package link

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/loopbackd/loopback/agent/state"
)

// How often a link tries whether there is a better one: each try costs the control plane a handshake.
const (
	// What blocks a WebSocket is seldom gone within minutes.
	firstProbe = 5 * time.Minute
	lastProbe  = time.Hour
	// An endpoint that was away is mostly there again soon: it was restarted, or the way to it was.
	firstReturn = time.Minute
	lastReturn  = 30 * time.Minute
)

// found is a better link.
type found struct {
	why     string
	earlier bool // at an endpoint before this one
}

// look starts to look for a better link than this one, and gives the channel on which it says what it found. What looks
// ends with ctx, and has ended when the session has.
func (s *session) look(ctx context.Context) <-chan found {
	better := make(chan found, 2)
	endpoint, trusted := s.Status().Endpoint, s.trust
	if s.conn.Fallback() != nil {
		s.beside.Go(func() { s.probe(ctx, endpoint, trusted, better) })
	}
	if i := slices.Index(s.options.Config.Endpoints, endpoint); i > 0 {
		first := min(firstReturn<<min(s.returns, 16), lastReturn)
		s.beside.Go(func() { s.preferred(ctx, s.options.Config.Endpoints[:i], first, trusted, better) })
	}
	return better
}

// probe finds that a WebSocket gets through to the endpoint of a link that polls.
func (s *session) probe(ctx context.Context, endpoint string, trusted state.Trust, better chan<- found) {
	for every := firstProbe; soon(ctx, every); every = min(2*every, lastProbe) {
		if s.reaches(ctx, s.options.DialWebSocket, endpoint, trusted) {
			better <- found{why: "a WebSocket gets through again"}
			return
		}
	}
}

// preferred finds that an endpoint which agent.yaml names before the link's can be reached.
func (s *session) preferred(ctx context.Context, endpoints []string, every time.Duration, trusted state.Trust, better chan<- found) {
	for ; soon(ctx, every); every = min(2*every, lastReturn) {
		for _, e := range endpoints {
			// One that named a time to return is not asked before. Nobody writes the times while a link stands.
			if time.Now().After(s.notUntil[e]) && s.reaches(ctx, s.options.Dial, e, trusted) {
				better <- found{"the endpoint " + e + ", which goes before this one, can be reached again", true}
				return
			}
		}
	}
}

// soon waits for some less than the whole, at random: hosts that lost their way together look for it one by one.
func soon(ctx context.Context, every time.Duration) bool {
	timer := time.NewTimer(every - time.Duration(rand.Float64()*float64(every)/4))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reaches tells whether the control plane proves itself there.
func (s *session) reaches(ctx context.Context, dial Dial, endpoint string, trusted state.Trust) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dial(ctx, endpoint, trusted.Anchors, trusted.Version)
	if err != nil {
		s.log.Debug("there is still no better link", "endpoint", endpoint, "error", err)
		return false
	}
	_ = conn.Close()
	return true
}
