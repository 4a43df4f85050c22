// Package replica keeps this replica's place among the others: its row and lease in the database, which of the others
// live, and the keyset that says who they are.
//
// A lease is judged by whoever looks, by its own clock: a row whose beat has not risen for Lease, while it could be read
// all along, is of a replica that is gone. While the database is away nobody is: what nobody can write proves nothing.
//
//	           beat rises                     beat does not rise for Lease
//	(no row) ────────────▶ serving ──────────────────────────────▶ gone
//	                          │  told to stop                        │ beat rises again
//	                          ▼                                      ▼
//	                       leaving ──────▶ left                   serving
//	                               stopped
//
// One name is one process. A second one under the same name, an invitation that was used twice say, is refused at its
// start while the first has its lease; of two that both run, the one that wrote last stays and the other stops.
package replica

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/trust"
)

// Reader reads what replicas share.
type Reader interface {
	Replicas(ctx context.Context) ([]replica.Replica, error)
	Keyset(ctx context.Context) (signed trust.Signed, found bool, err error)
	Leases(ctx context.Context, now time.Time) ([]replica.Lease, error)
}

// Tx writes it.
type Tx interface {
	Reader
	PutReplica(ctx context.Context, r replica.Replica) error
	PutKeyset(ctx context.Context, signed trust.Signed) error
}

// Store is where it lies.
type Store interface {
	View() Reader
	Observe(ctx context.Context, do func(Tx) error) error
}

// Keys are this replica's, as the keyset lists them.
type Keys interface {
	Current() (trust.Keyset, trust.Signed)
	// Adopt takes up a newer keyset; it fails where that does not list this replica.
	Adopt(signed trust.Signed) (changed bool, err error)
}

// Options of a Service. Lease and Every have defaults.
type Options struct {
	Store    Store
	Keys     Keys
	Me       replica.Replica // Name, Version, Address and Routes
	Folder   string          // id of the data folder: one process at a time has it
	Instance string          // of this life
	Links    func() int
	Position func() int64
	BusPeers func() int64
	Database func(ctx context.Context) (time.Time, error) // its clock
	Reached  func(name string) bool                       // whether another one answers; nil: it was not asked
	Present  func(others []string)                        // told who else has a lease, each time that somebody looked
	Now      func() time.Time
	Logger   *slog.Logger

	Lease time.Duration // 20 s: longer than PostgreSQL lets a frozen replica hold all others up
	Every time.Duration // 3 s
}

// Service is this replica among the others.
type Service struct {
	Options

	mu      sync.Mutex
	me      replica.Replica
	rows    []replica.Replica
	risen   map[string]mark // when each row's beat was seen to rise
	looked  time.Time       // when the rows were read last
	ahead   time.Duration   // of the database's clock, as it was measured last
	timed   bool            // that it was
	written time.Time       // when ours was
}

type mark struct {
	instance string
	beat     int64
	at       time.Time
}

// Errors of a replica that cannot go on.
var (
	ErrInUse = fault.New(fault.Precondition, "replica_in_use", "another process runs under this replica's name").
		WithHint("stop it, or invite this machine under another name: loopbackd invite")
)

// New makes a service. Nothing is written before Join.
func New(o Options) *Service {
	if o.Lease == 0 {
		o.Lease = 20 * time.Second
	}
	if o.Every == 0 {
		o.Every = 3 * time.Second
	}
	s := &Service{Options: o, me: o.Me, risen: map[string]mark{}}
	s.me.Instance = o.Folder + "." + o.Instance
	s.me.StartedAt = o.Now().UTC()
	return s
}

// Join takes this replica's place: it exchanges keysets with the database and writes the first beat. It waits out the
// lease of another process of the same name, and fails where that goes on. From then on All knows who there is.
func (s *Service) Join(ctx context.Context) error {
	if err := s.exchange(ctx); err != nil {
		return err
	}
	began := s.Now()
	first := int64(-1)
	for {
		old, err := s.row(ctx)
		if err != nil {
			return err
		}
		if first < 0 {
			first = old.Beat
		}
		folder, _, _ := strings.Cut(old.Instance, ".")
		switch {
		case old.Beat == 0, folder == s.Folder, s.Now().Sub(began) > s.Lease:
			// The look comes after the beat: of two that join at once, one sees the other.
			if err := s.beat(ctx, old.Instance); err != nil {
				return err
			}
			return s.Look(ctx)
		case old.Beat != first:
			return ErrInUse
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.Every):
		}
	}
}

func (s *Service) row(ctx context.Context) (replica.Replica, error) {
	rows, err := s.Store.View().Replicas(ctx)
	for _, r := range rows {
		if r.Name == s.me.Name {
			return r, err
		}
	}
	return replica.Replica{}, err
}

// exchange takes up the newest keyset, or publishes ours where that is newer.
func (s *Service) exchange(ctx context.Context) error {
	published, found, err := s.Store.View().Keyset(ctx)
	if err != nil {
		return err
	}
	if found {
		changed, err := s.Keys.Adopt(published)
		if err != nil {
			return err
		}
		if changed {
			set, _ := s.Keys.Current()
			s.Logger.Info("took up a newer keyset", "version", set.Version, "replicas", len(set.Replicas))
			return nil
		}
	}
	_, ours := s.Keys.Current()
	if found && string(ours.Payload) == string(published.Payload) {
		return nil
	}
	err = s.Store.Observe(ctx, func(tx Tx) error { return tx.PutKeyset(ctx, ours) })
	if fault.KindOf(err) == fault.Conflict { // somebody was quicker: the next look takes theirs up
		return nil
	}
	return err
}

// Run keeps the lease, and looks at the others, until ctx ends. It ends by itself, with why, where this replica was
// evicted or its name is another process's by now.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		case final(err):
			return err
		case err.Error() != said:
			said = err.Error()
			s.Logger.Warn("this replica's lease cannot be renewed", "error", err)
		}
	}
}

func final(err error) bool {
	return fault.KindOf(err) == fault.Precondition || fault.KindOf(err) == fault.Unauthenticated
}

// Once renews the lease and looks at the others.
func (s *Service) Once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Lease)
	defer cancel()
	// The look comes first: it must not wait for a writer who hangs.
	looked := s.Look(ctx)
	return errors.Join(looked, s.exchange(ctx), s.beat(ctx, ""))
}

// beat writes our row. taking is the instance that we take the name over from; else it must be ours.
func (s *Service) beat(ctx context.Context, taking string) error {
	s.mu.Lock()
	me := s.me
	s.mu.Unlock()
	s.report(ctx, &me)
	err := s.Store.Observe(ctx, func(tx Tx) error {
		rows, err := tx.Replicas(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Name == me.Name && r.Instance != me.Instance && r.Instance != taking {
				return ErrInUse
			}
			if r.Name == me.Name {
				me.Beat = r.Beat
			}
		}
		me.Beat++
		me.SeenAt = s.Now().UTC()
		return tx.PutReplica(ctx, me)
	})
	if err == nil {
		s.mu.Lock()
		s.written = s.Now()
		s.mu.Unlock()
	}
	return err
}

// report fills in what this replica says of itself.
func (s *Service) report(ctx context.Context, me *replica.Replica) {
	me.Links, me.Position, me.BusPeers = int64(s.Links()), s.Position(), s.BusPeers()
	set, _ := s.Keys.Current()
	me.Keyset = int64(set.Version)
	asked := s.Now()
	theirs, err := s.Database(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil { // half of the way there and back has passed when they looked at their clock
		s.ahead, s.timed = asked.Add(s.Now().Sub(asked)/2).Sub(theirs), true
	}
	me.ClockOffset, me.ClockKnown = s.ahead, s.timed
}

// Look reads who there is and tells Present who of the others has a lease.
func (s *Service) Look(ctx context.Context) error {
	rows, err := s.Store.View().Replicas(ctx)
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	// After a time without a look nobody's lease has run out: we could not have seen it renewed.
	if blind := now.Sub(s.looked); !s.looked.IsZero() && blind > s.Lease/2 {
		for name, m := range s.risen {
			m.at = now
			s.risen[name] = m
		}
	}
	s.rows, s.looked = rows, now
	var others []string
	for _, r := range rows {
		if m := s.risen[r.Name]; m.beat != r.Beat || m.instance != r.Instance {
			s.risen[r.Name] = mark{r.Instance, r.Beat, now}
		}
		if r.Name != s.me.Name && s.leased(r, now) {
			others = append(others, r.Name)
		}
	}
	if s.Present != nil {
		s.Present(others)
	}
	return nil
}

// leased tells whether a replica lives. The caller holds mu.
func (s *Service) leased(r replica.Replica, now time.Time) bool {
	return r.Beat > 0 && now.Sub(s.risen[r.Name].at) <= s.Lease
}

// Leaving says that this replica is about to stop.
func (s *Service) Leaving(ctx context.Context) error {
	s.mu.Lock()
	s.me.Leaving = true
	s.mu.Unlock()
	return s.beat(ctx, "")
}

// Leave gives the lease back: this replica holds no link any more.
func (s *Service) Leave(ctx context.Context) error {
	s.mu.Lock()
	me := s.me
	s.mu.Unlock()
	return s.Store.Observe(ctx, func(tx Tx) error {
		rows, err := tx.Replicas(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Name == me.Name && r.Instance == me.Instance {
				r.Beat, r.Leaving, r.Links, r.SeenAt = 0, true, 0, s.Now().UTC()
				return tx.PutReplica(ctx, r)
			}
		}
		return nil
	})
}

// Address is where the other replicas reach one that has a lease, by its name without dashes, as ids of poll sessions
// have it; empty: there is none.
func (s *Service) Address(short string) (name, address string) {
	for _, r := range s.All() {
		if strings.ReplaceAll(r.Name, "-", "") == short && (r.State == replica.Serving || r.State == replica.Leaving) {
			return r.Name, r.Address
		}
	}
	return "", ""
}

// LeaseAge is how long ago this replica wrote its row.
func (s *Service) LeaseAge() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written.IsZero() {
		return 0
	}
	return s.Now().Sub(s.written)
}
