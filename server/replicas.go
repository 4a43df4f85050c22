package server

import (
	"context"
	"log/slog"

	hosts "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/bus"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/storage"
)

// What replicas tell each other goes through the bus, also while there is one. It carries hints and presence: a nudge
// says to look at the change feed, never what is there.

// announcer puts the hub's word on its links on the bus. What is lost is repeated at the next roll call.
type announcer struct {
	bus *bus.Bus
	log *slog.Logger
}

var _ link.Announcer = announcer{}

func (a announcer) Announce(batch []link.Announcement) {
	out := make([]bus.Presence, len(batch))
	for i, p := range batch {
		out[i] = bus.Presence{Replica: p.Replica, HostID: p.HostID, Online: p.Online, BootID: p.Link.BootID, Connection: p.Link.Connection, At: p.At}
	}
	if err := a.bus.Announce(out); err != nil {
		a.log.Warn("announcing links to the other replicas", "error", err)
	}
}

func (a announcer) Ask(q link.Question) {
	if err := a.bus.Ask(bus.Question{
		From: q.From, To: q.To, ID: q.ID, HostID: q.HostID, BootID: q.Link.BootID, Connection: q.Link.Connection, Nonce: q.Nonce,
		Answer: string(q.Answer), Key: q.Key, Hash: q.Hash, Signature: q.Signature,
		Copy: bus.Copy{Address: q.Copy.Address, HostName: q.Copy.HostName, MachineID: q.Copy.MachineID, AgentVersion: q.Copy.AgentVersion},
	}); err != nil {
		a.log.Warn("asking another replica for a host's agent", "error", err)
	}
}

// recheck looks for a host in the database where the feed may not have brought it yet; nil where nobody else writes.
func (s *Server) recheck() func(ctx context.Context, hostID string) {
	if !s.options.Settings.Cluster.On() {
		return nil
	}
	return func(ctx context.Context, hostID string) {
		if h, err := s.db.View().Host(ctx, hostID); err == nil {
			s.directory.Learn(ctx, h)
		}
	}
}

// hear hands the hub what the bus brings.
func (s *Server) hear() error {
	if _, err := s.bus.OnPresence(func(batch []bus.Presence) {
		in := make([]link.Announcement, len(batch))
		for i, p := range batch {
			in[i] = link.Announcement{Replica: p.Replica, HostID: p.HostID, Online: p.Online, Link: link.Order{BootID: p.BootID, Connection: p.Connection}, At: p.At}
		}
		s.hub.Hear(in)
	}); err != nil {
		return err
	}
	if _, err := s.bus.OnQuestion(func(q bus.Question) {
		s.hub.HearQuestion(link.Question{
			From: q.From, To: q.To, ID: q.ID, HostID: q.HostID, Link: link.Order{BootID: q.BootID, Connection: q.Connection}, Nonce: q.Nonce,
			Answer: link.Answer(q.Answer), Key: q.Key, Hash: q.Hash, Signature: q.Signature,
			Copy: hosts.Copy{Address: q.Copy.Address, HostName: q.Copy.HostName, MachineID: q.Copy.MachineID, AgentVersion: q.Copy.AgentVersion},
		})
	}); err != nil {
		return err
	}
	_, err := s.bus.OnRoll(func(r bus.Roll) {
		if r.Replica != s.replica {
			s.hub.RollCall()
		}
	})
	return err
}

// changes is the feed of one database, with nudges from whichever replica wrote.
type changes struct {
	*storage.DB
	bus *bus.Bus
	log *slog.Logger
}

// Nudges implements feed.Source.
func (c changes) Nudges() (<-chan struct{}, func()) {
	nudged := make(chan struct{}, 1)
	stop, err := c.bus.OnNudge(func(bus.Nudge) {
		select {
		case nudged <- struct{}{}:
		default: // one is waiting already
		}
	})
	if err != nil {
		// The follower looks by itself from time to time.
		c.log.Warn("the change feed is followed without nudges", "error", err)
		return nudged, func() {}
	}
	return nudged, stop
}

// nudge tells all replicas that something was committed here.
func (s *Server) nudge(ctx context.Context) error {
	committed, stop := s.db.Nudges()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-committed:
			if err := s.bus.Nudge(bus.Nudge{}); err != nil && ctx.Err() == nil {
				s.log.Warn("nudging the other replicas", "error", err)
			}
		}
	}
}
