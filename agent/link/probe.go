package link

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/loopbackd/loopback/agent/state"
)

// How often a link that polls tries whether a WebSocket gets through: what blocks one is seldom gone within minutes, and
// each try costs the control plane a handshake.
const (
	firstProbe = 5 * time.Minute
	lastProbe  = time.Hour
)

// probe closes better once a WebSocket gets through to the endpoint.
func (s *session) probe(ctx context.Context, endpoint string, trusted state.Trust, better chan<- struct{}) {
	for every := firstProbe; ; every = min(2*every, lastProbe) {
		// Some less than the whole, at random: hosts behind one proxy began to poll together.
		timer := time.NewTimer(every - time.Duration(rand.Float64()*float64(every)/4))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		dialling, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := s.options.DialWebSocket(dialling, endpoint, trusted.Anchors, trusted.Version)
		cancel()
		if err == nil {
			_ = conn.Close()
			close(better)
			return
		}
		s.log.Debug("a WebSocket still does not get through", "endpoint", endpoint, "error", err)
	}
}
