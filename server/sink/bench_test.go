package sink_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/sink/sinktest"
	"github.com/loopbackd/loopback/server/storage"
	noun "github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// bench is a database with entries in it, a network with receivers on it, and shippers that come and go.
type bench struct {
	db      *storage.DB
	service *sink.Service
	net     *sinktest.Net
	dir     string
	wrote   map[string]bool // ids of entries of org_1
	aside   int
}

type tenants struct{}

func (tenants) Organisation(context.Context, string, access.Permission) (tenant.Organisation, error) {
	return tenant.Organisation{Meta: tenant.Meta{ID: "org_1", Name: "acme"}}, nil
}

// bubble runs a test with a bench of its own where time costs nothing.
func bubble(t *testing.T, run func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) { run(t, newBench(t, filepath.Join(t.TempDir(), "loopback.db"))) })
}

func newBench(t *testing.T, url string) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), wrote: map[string]bool{}, net: sinktest.NewNet()}
	var err error
	if b.db, err = storage.Open(t.Context(), storage.Options{URL: url, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	b.service, err = sink.NewService(storage.Bind[sink.Reader, sink.Tx](b.db), tenants{}, sink.Options{Deployment: "dep_test", Seal: make([]byte, 32), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var admin = access.WithActor(context.Background(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{access.All}}}}))

func (b *bench) create(t *testing.T, n sink.New) (noun.Sink, string) {
	t.Helper()
	s, secret, err := b.service.Create(admin, n)
	if err != nil {
		t.Fatal(err)
	}
	b.note(t)
	return s, secret
}

// note takes note of every entry of the organisation.
func (b *bench) note(t *testing.T) {
	t.Helper()
	for after := int64(0); ; {
		list, err := b.db.View().EntriesOf(t.Context(), "org_1", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return
		}
		for _, e := range list {
			b.wrote[e.ID] = true
			after = e.Position
		}
	}
}

// write writes entries of two organisations, and returns the ids of those of the one that has sinks.
func (b *bench) write(t *testing.T, n, size int) (ids []string) {
	t.Helper()
	for _, org := range []string{"org_1", "org_2"} {
		if err := b.db.Observe(t.Context(), func(tx *storage.Tx) error {
			for i := range n {
				if err := tx.Audit(t.Context(), audit.Of(access.Actor{Kind: access.APIKey, ID: "key_2", Address: "192.0.2.1"}, "hosts.label",
					access.Scope{Organisation: org}, fmt.Sprint("hst_", i), "web").Change(nil, map[string]string{"x": strings.Repeat("ü\"", size/4)})); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := len(b.wrote)
	head, err := b.db.View().AuditPosition(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := b.db.View().EntriesOf(t.Context(), "org_1", head-2*int64(n), n)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	if b.note(t); len(b.wrote)-before < n {
		t.Fatalf("%d entries were written, want %d", len(b.wrote)-before, n)
	}
	return ids
}

// ship runs a shipper until stop is called, which waits for it.
func (b *bench) ship(owner string) (stop func()) { return b.shipEvery(owner, 0) }

func (b *bench) shipEvery(owner string, every time.Duration) (stop func()) {
	var mu sync.Mutex
	p := sink.NewShipper(b.service, sink.ShipOptions{Owner: owner, DataDir: b.dir, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Every: every, Dial: b.net.Dial,
		Aside: func(string) { mu.Lock(); defer mu.Unlock(); b.aside++ }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

// until waits for something that comes in the end.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Hour); !holds(); time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

// await waits until the receiver has everything, and fails if it has anything else, or in another order.
func (b *bench) await(t *testing.T, c *sinktest.Crate) {
	t.Helper()
	until(t, "the receiver has everything", func() bool { return c.Has(b.wrote) })
	for _, wrong := range c.Check(b.wrote) {
		t.Error(wrong)
	}
}

// only is the one sink that there is.
func (b *bench) only(t *testing.T) noun.Sink {
	t.Helper()
	s, _, err := b.service.List(admin, tenant.Page{})
	if err != nil || len(s) != 1 {
		t.Fatal(s, err)
	}
	return s[0]
}

// webhook is a receiver, and the sink that sends to it.
func (b *bench) webhook(t *testing.T, format noun.Format) *sinktest.Webhook {
	t.Helper()
	cert, ca := sinktest.Certificate()
	h := &sinktest.Webhook{Crate: sinktest.NewCrate(), Complain: t.Errorf}
	t.Cleanup(sinktest.Serve(b.net.Listen("example.com:443"), cert, h))
	_, secret := b.create(t, sink.New{Name: "siem", Organisation: "acme", Kind: noun.Webhook, Target: "https://example.com/in", Format: format, CA: ca, Since: time.Unix(1, 0)})
	if err := h.Trust(secret); err != nil {
		t.Fatal(err)
	}
	return h
}

// collector is a receiver of OpenTelemetry, and the sink that sends to it.
func (b *bench) collector(t *testing.T, m sinktest.Mood) *sinktest.Collector {
	t.Helper()
	cert, ca := sinktest.Certificate()
	c := &sinktest.Collector{Crate: sinktest.NewCrate(), Complain: t.Errorf, Token: "sesame", Mood: m}
	t.Cleanup(sinktest.Serve(b.net.Listen("example.com:4318"), cert, c))
	b.create(t, sink.New{Name: "otel", Organisation: "acme", Kind: noun.OTLP, Target: "https://example.com:4318", CA: ca, Secret: "sesame", Format: noun.ECS, Since: time.Unix(1, 0)})
	return c
}

// replayAll sends everything once more.
var replayAll = sink.Update{Replay: time.Unix(1, 0)}
