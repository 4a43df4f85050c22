package replicas

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/fleet"
)

// The primary dies without a word and its standby, which has confirmed every commit, is promoted: writes go on by
// themselves, what was acknowledged is there, meanwhile callers are told what is wrong, and no host shows as offline.
func TestThePrimaryDiesAndItsStandbyTakesOver(t *testing.T) {
	if testing.Short() {
		t.Skip("replicas are processes of their own, on two PostgreSQL of its own: not in the quick part")
	}
	c := &cluster{t: t, postgres: storagetest.StartPostgres(t, "fsync=off", "max_wal_senders=4"), balancer: newBalancer(t)}
	name := strings.TrimPrefix(mustURL(t, c.postgres.NewDatabase(t)).Path, "/")
	standby := c.postgres.Standby(t, "standby")
	c.postgres.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
	c.postgres.Exec(t, "SELECT pg_reload_conf()")
	c.database = fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/%s?sslmode=disable&target_session_attrs=read-write", c.postgres.Port, standby.Port, name)
	c.startOn(program, 3, "", "--reconnect-window", "10s")
	const n = 30
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	shown := c.offline(c.replicas[0])
	w := c.write(ids(f, 3))
	c.pause(3 * time.Second)

	c.postgres.Crash()
	began := time.Now()
	// What callers are told while nothing takes writes: that it is unavailable, by a code of the database, with a hint.
	for i, d := range c.replicas {
		_, err := d.Mint(c.within(15*time.Second), 1)
		var ce *connect.Error
		if err == nil || !errors.As(err, &ce) || ce.Code() != connect.CodeUnavailable || !strings.HasPrefix(detailOf(ce).GetCode(), "database_") || detailOf(ce).GetHint() == "" {
			t.Errorf("replica %d answered %v (%v) while no database takes writes", i+1, err, detailOf(ce))
		}
	}
	if now := f.Counts().Linked; now != n {
		t.Errorf("%d hosts are linked meanwhile, want %d", now, n)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	for i, d := range c.replicas {
		c.until(30*time.Second, func() error {
			_, err := d.Mint(c.within(5*time.Second), 1)
			return err
		})
		t.Logf("replica %d wrote %s after the promotion, %s after the crash", i+1, time.Since(promoted).Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	}
	t.Logf("settings were at all hosts after %s", c.set(f, 2, "debug", 20*time.Second).Round(time.Millisecond))
	c.pause(12 * time.Second) // past the window
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}
	c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
	w.kept(t, c, c.replicas[1])
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func detailOf(err *connect.Error) *pb.ErrorDetail {
	if err == nil {
		return nil
	}
	for _, d := range err.Details() {
		if v, e := d.Value(); e == nil {
			if detail, ok := v.(*pb.ErrorDetail); ok {
				return detail
			}
		}
	}
	return nil
}

// Three replicas' databases write at the same time while connections are cut under them: whoever follows the feed, on
// any of them, is told of every change, once, in order.
func TestNoReaderOfTheFeedSkipsAChange(t *testing.T) {
	if testing.Short() {
		t.Skip("a PostgreSQL of its own: not in the quick part")
	}
	p := storagetest.StartPostgres(t, "fsync=off")
	target := p.NewDatabase(t)
	var dbs []*storage.DB
	for range 3 {
		db, err := storage.Open(t.Context(), storage.Options{URL: target})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() }) // connections that were cut
		dbs = append(dbs, db)
	}
	ctx, stop := context.WithCancel(t.Context())
	var following, writing sync.WaitGroup
	defer following.Wait()
	defer stop()
	type reader struct {
		at  atomic.Int64
		err atomic.Pointer[error]
	}
	readers := make([]*reader, 0, 6)
	for _, db := range dbs {
		f := feed.NewFollower(feed.Options{Source: db})
		following.Go(func() { f.Run(ctx) })
		for range 2 {
			r, from := &reader{}, f.Subscribe(100_000)
			readers = append(readers, r)
			following.Go(func() {
				defer from.Close()
				for {
					changes, anew, err := from.Next(ctx)
					if err != nil {
						return
					}
					if anew && r.at.Load() > 0 {
						err := errors.New("it was sent back to the start")
						r.err.Store(&err)
					}
					for _, c := range changes {
						if last := r.at.Load(); last > 0 && c.Position != last+1 {
							err := fmt.Errorf("%d follows %d", c.Position, last)
							r.err.Store(&err)
						}
						r.at.Store(c.Position)
					}
				}
			})
		}
	}
	const writers, each = 4, 150
	var made atomic.Int64
	for i, db := range dbs {
		for j := range writers {
			writing.Go(func() {
				for n := range each {
					o := tenant.Organisation{}
					o.ID = fmt.Sprintf("org_%d_%d_%d", i, j, n)
					o.Name = o.ID
					for {
						err := db.Observe(ctx, func(tx *storage.Tx) error {
							if _, err := tx.Organisation(ctx, o.ID); err == nil {
								return nil // it was written, and the answer lost
							}
							_, err := tx.PutOrganisation(ctx, o)
							return err
						})
						if err == nil {
							made.Add(1)
							break
						}
						if ctx.Err() != nil {
							return
						}
					}
				}
			})
		}
	}
	cutting, endCutting := context.WithCancel(ctx)
	var cuts atomic.Int64
	following.Go(func() {
		for cutting.Err() == nil {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-cutting.Done():
				return
			}
			p.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'loopbackd' AND random() < 0.3")
			cuts.Add(1)
		}
	})
	writing.Wait()
	endCutting()
	head, err := dbs[0].Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for i, r := range readers {
		for r.at.Load() < head && time.Now().Before(deadline) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-t.Context().Done():
			}
		}
		if r.at.Load() != head {
			t.Errorf("reader %d came to %d of %d", i, r.at.Load(), head)
		}
		if e := r.err.Load(); e != nil {
			t.Errorf("reader %d: %v", i, *e)
		}
	}
	t.Logf("%d changes by %d writers, connections cut %d times; %d readers have seen them all", made.Load(), 3*writers, cuts.Load(), len(readers))
}
