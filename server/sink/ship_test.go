package sink_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/storage"
	noun "github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// bench is a database with entries in it, and shippers that come and go.
type bench struct {
	db      *storage.DB
	service *sink.Service
	dir     string
	wrote   map[string]bool // ids of entries of org_1
}

type tenants struct{}

func (tenants) Organisation(context.Context, string, access.Permission) (tenant.Organisation, error) {
	return tenant.Organisation{Meta: tenant.Meta{ID: "org_1", Name: "acme"}}, nil
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), wrote: map[string]bool{}}
	var err error
	if b.db, err = storage.Open(t.Context(), storage.Options{URL: filepath.Join(b.dir, "loopback.db"), Logger: slog.New(slog.DiscardHandler)}); err != nil {
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

func (b *bench) write(t *testing.T, n, size int) {
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
	b.note(t)
}

// ship runs a shipper until stop is called, which waits for it.
func (b *bench) ship(owner string) (stop func()) {
	p := sink.NewShipper(b.service, sink.ShipOptions{Owner: owner, DataDir: b.dir, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Every: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

// crate is what a receiver has: every event that it answered for, whole, in the order in which it came first.
type crate struct {
	mu    sync.Mutex
	ids   []string
	seen  map[string]int
	parts map[string]map[int]string
	whole map[string]string
	order []float64
}

func newCrate() *crate {
	return &crate{seen: map[string]int{}, parts: map[string]map[int]string{}, whole: map[string]string{}}
}

func (c *crate) take(event []byte) error {
	var e struct {
		ID       string  `json:"id"`
		Of       string  `json:"of"`
		Part     int     `json:"part"`
		N        int     `json:"parts"`
		Text     string  `json:"text"`
		Position float64 `json:"position"`
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
		Event struct {
			ID string `json:"id"`
		} `json:"event"`
	}
	if err := json.Unmarshal(event, &e); err != nil {
		return err
	}
	id := e.ID + e.Metadata.UID + e.Event.ID
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[id]++
	if c.seen[id] > 1 {
		return nil
	}
	if e.Of == "" {
		c.whole[id] = string(event)
		c.ids = append(c.ids, id)
		c.order = append(c.order, e.Position)
		return nil
	}
	if c.parts[e.Of] == nil {
		c.parts[e.Of] = map[int]string{}
	}
	c.parts[e.Of][e.Part] = e.Text
	if len(c.parts[e.Of]) == e.N {
		var text strings.Builder
		for i := range e.N {
			text.WriteString(c.parts[e.Of][i+1])
		}
		c.whole[e.Of] = text.String()
		c.ids = append(c.ids, e.Of)
	}
	return nil
}

func (c *crate) has(wanted map[string]bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range wanted {
		if c.whole[id] == "" {
			return false
		}
	}
	return true
}

// await waits until the receiver has everything, and fails if it has anything else, or in another order.
func (b *bench) await(t *testing.T, c *crate) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for !c.has(b.wrote) {
		if time.Now().After(end) {
			c.mu.Lock()
			defer c.mu.Unlock()
			s, _, err := b.service.List(admin, tenant.Page{})
			t.Fatalf("the receiver has %d of %d entries; sinks %+v, %v", len(c.whole), len(b.wrote), s, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, text := range c.whole {
		if !b.wrote[id] && !strings.HasPrefix(id, "checkpoint-") {
			t.Errorf("the receiver has %s, which is not its organisation's", id)
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("event %s was not put together again", id)
		}
	}
	for i := 1; i < len(c.order); i++ {
		if c.order[i] < c.order[i-1] {
			t.Errorf("position %v came after %v", c.order[i], c.order[i-1])
		}
	}
}

// webhooks is a receiver that can be made to behave in many ways.
type webhooks struct {
	*crate
	secret []byte
	mood   func(r *rand.Rand) string // "", "500", "lose", "slow", "413"
	random *rand.Rand
	most   int // bytes of a body that it takes
	t      *testing.T
	lost   int
}

func (h *webhooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	mood := ""
	if h.mood != nil {
		mood = h.mood(h.random)
	}
	secret := h.secret
	h.mu.Unlock()
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if got := r.Header.Get("webhook-signature"); got != "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)) {
		h.t.Errorf("the signature %q does not fit", got)
	}
	if at, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		h.t.Errorf("the timestamp is %d, %v", at, err)
	}
	switch {
	case mood == "500":
		w.WriteHeader(500)
		return
	case h.most > 0 && len(body) > h.most:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	var in struct {
		Type string
		Data []json.RawMessage
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Type != "audit.entries" {
		h.t.Errorf("the body is %.200s: %v", body, err)
	}
	for _, e := range in.Data {
		if err := h.take(e); err != nil {
			h.t.Errorf("%.200s: %v", e, err)
		}
	}
	switch mood {
	case "lose": // taken, and nobody hears of it
		h.mu.Lock()
		h.lost++
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	case "slow":
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bench) webhook(t *testing.T, h *webhooks, format noun.Format) *httptest.Server {
	t.Helper()
	h.t, h.crate, h.random = t, newCrate(), rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	_, secret := b.create(t, sink.New{Name: "siem", Organisation: "acme", Kind: noun.Webhook, Target: server.URL + "/in", Format: format, CA: pemOf(server), Since: time.Unix(1, 0)})
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.secret = key
	h.mu.Unlock()
	return server
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestAWebhookGetsEverythingOnceInEveryFormat(t *testing.T) {
	for _, format := range noun.Formats {
		t.Run(string(format), func(t *testing.T) {
			b := newBench(t)
			b.write(t, 700, 10)
			h := &webhooks{}
			b.webhook(t, h, format)
			defer b.ship("one")()
			b.await(t, h.crate)
			b.write(t, 3, 10)
			b.await(t, h.crate)
			for id, n := range h.seen {
				if n != 1 {
					t.Errorf("%s came %d times", id, n)
				}
			}
		})
	}
}

// Whatever the receiver does, and however often whoever ships dies, nothing is missing in the end.
func TestNothingIsMissedWhateverTheReceiverDoes(t *testing.T) {
	for name, mood := range map[string]func(*rand.Rand) string{
		"answers 500 most of the time": func(r *rand.Rand) string { return []string{"500", "500", ""}[r.IntN(3)] },
		"takes it and the answer is lost": func() func(*rand.Rand) string {
			tries := 0
			return func(*rand.Rand) string { tries++; return []string{"", "lose"}[tries%2] }
		}(),
		"is slow":                          func(*rand.Rand) string { return "slow" },
		"does all of it, and shippers die": func(r *rand.Rand) string { return []string{"lose", "500", "slow", "", "", ""}[r.IntN(6)] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			h := &webhooks{mood: mood}
			b.webhook(t, h, noun.JSON)
			r := rand.New(rand.NewPCG(2, uint64(len(name))))
			for range 8 {
				b.write(t, 1+r.IntN(400), 10)
				stop := b.ship("one")
				time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
				stop() // in the middle of whatever it does
			}
			defer b.ship("one")()
			b.await(t, h.crate)
			if name == "takes it and the answer is lost" && h.lost == 0 {
				t.Error("no answer was lost")
			}
		})
	}
}

func TestAReceiverThatWasAwayGetsItAllInOrder(t *testing.T) {
	b := newBench(t)
	h := &webhooks{}
	down := true
	h.mood = func(*rand.Rand) string {
		if down {
			return "500"
		}
		return ""
	}
	b.webhook(t, h, noun.JSON)
	defer b.ship("one")()
	for range 10 {
		b.write(t, 300, 10)
	}
	var s []noun.Sink
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if s, _, err = b.service.List(admin, tenant.Page{}); err != nil || time.Now().After(end) {
			t.Fatal(s, err)
		}
		if s[0].Failures > 0 && s[0].Health() == "failing" && strings.Contains(s[0].LastError, "500") {
			break
		}
	}
	h.mu.Lock()
	down = false
	h.mu.Unlock()
	b.await(t, h.crate)
}

func TestAnEventOfTenMebibytesPasses(t *testing.T) {
	b := newBench(t)
	b.write(t, 2, 10)
	b.write(t, 1, 10<<20)
	b.write(t, 2, 10)
	h := &webhooks{}
	b.webhook(t, h, noun.JSON)
	defer b.ship("one")()
	b.await(t, h.crate)
}

func TestAReceiverThatTakesOnlySmallEventsGetsSmallerParts(t *testing.T) {
	b := newBench(t)
	h := &webhooks{most: 20_000}
	b.webhook(t, h, noun.JSON)
	b.write(t, 1, 200_000)
	defer b.ship("one")()
	b.await(t, h.crate)
}

func TestOnlyOneReplicaShips(t *testing.T) {
	b := newBench(t)
	h := &webhooks{}
	b.webhook(t, h, noun.JSON)
	defer b.ship("one")()
	defer b.ship("two")()
	for range 10 {
		b.write(t, 100, 10)
		time.Sleep(10 * time.Millisecond)
	}
	b.await(t, h.crate)
	for id, n := range h.seen {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

func TestASinkIsPausedResumedAndReplayed(t *testing.T) {
	b := newBench(t)
	h := &webhooks{}
	b.webhook(t, h, noun.JSON)
	defer b.ship("one")()
	b.write(t, 10, 10)
	b.await(t, h.crate)
	s, _, err := b.service.List(admin, tenant.Page{})
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	if _, err := b.service.Update(admin, s[0].ID, sink.Update{Paused: &yes}); err != nil {
		t.Fatal(err)
	}
	b.write(t, 10, 10)
	if _, err := b.service.Update(admin, s[0].ID, sink.Update{Paused: &no}); err != nil {
		t.Fatal(err)
	}
	b.note(t)
	b.await(t, h.crate)
	h.mu.Lock()
	h.seen, h.whole, h.order = map[string]int{}, map[string]string{}, nil
	h.mu.Unlock()
	if _, err := b.service.Update(admin, s[0].ID, sink.Update{Replay: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	b.note(t)
	b.await(t, h.crate)
}

func TestAFileHoldsEverythingAndIsMendedAfterACrash(t *testing.T) {
	b := newBench(t)
	b.create(t, sink.New{Name: "archive", Organisation: "acme", Kind: noun.File, Target: "audit.jsonl", Since: time.Unix(1, 0)})
	path := filepath.Join(b.dir, "sinks", "org_1", "audit.jsonl")
	read := func() *crate {
		c := newCrate()
		f, err := os.Open(path)
		if err != nil {
			return c
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 32<<20)
		for lines.Scan() {
			if string(lines.Bytes()) == `{"half a li` {
				continue // not mended yet
			}
			if err := c.take(lines.Bytes()); err != nil {
				t.Fatalf("%.100s: %v", lines.Bytes(), err)
			}
		}
		return c
	}
	for range 5 {
		b.write(t, 50, 1000)
		stop := b.ship("one")
		for end := time.Now().Add(20 * time.Second); !read().has(b.wrote) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		stop()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(`{"half a li`) // as a power cut leaves it
		f.Close()
	}
	b.write(t, 1, 10)
	defer b.ship("one")()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		whole, err := os.ReadFile(path)
		if err == nil && !bytes.Contains(whole, []byte("half a li")) && read().has(b.wrote) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the file does not hold everything", err)
		}
	}
	b.await(t, read())
}

// syslogs is a server that reads octet-counted messages, and may die at any.
func syslogs(t *testing.T, c *crate, die func() bool) (address, ca string) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	t.Cleanup(cert.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: cert.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					size, err := r.ReadString(' ')
					if err != nil {
						return
					}
					n, err := strconv.Atoi(strings.TrimSpace(size))
					if err != nil || n > 8192 {
						t.Errorf("a message of %q bytes", size)
						return
					}
					m := make([]byte, n)
					if _, err := io.ReadFull(r, m); err != nil {
						return
					}
					if die() {
						conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
						conn.(*tls.Conn).NetConn().Close()
						return
					}
					if !bytes.HasPrefix(m, []byte("<109>1 20")) {
						t.Errorf("got %.60s", m)
					}
					_, body, _ := bytes.Cut(m, []byte("] "))
					if err := c.take(body); err != nil {
						t.Errorf("%.200s: %v", m, err)
					}
				}
			})
		}
	})
	return l.Addr().String(), pemOf(cert)
}

func TestSyslogGetsEverythingAlsoFromAServerThatDies(t *testing.T) {
	b := newBench(t)
	c := newCrate()
	r := rand.New(rand.NewPCG(3, 3))
	var mu sync.Mutex
	address, ca := syslogs(t, c, func() bool { mu.Lock(); defer mu.Unlock(); return r.IntN(400) == 0 })
	b.create(t, sink.New{Name: "logs", Organisation: "acme", Kind: noun.Syslog, Target: address, CA: ca, Since: time.Unix(1, 0)})
	b.write(t, 500, 10)
	b.write(t, 1, 50_000)
	b.write(t, 300, 10)
	defer b.ship("one")()
	b.await(t, c)
}

func TestACollectorGetsEverythingAndMayRejectSome(t *testing.T) {
	b := newBench(t)
	c := newCrate()
	var mu sync.Mutex
	tries := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var in logsv1.ExportLogsServiceRequest
		if err := errors.Join(err, proto.Unmarshal(body, &in)); err != nil || r.URL.Path != "/v1/logs" || r.Header.Get("Authorization") != "Bearer sesame" {
			t.Errorf("%s %s: %v", r.URL, r.Header, err)
		}
		mu.Lock()
		tries++
		reject := tries%3 == 1
		mu.Unlock()
		out := &logsv1.ExportLogsServiceResponse{}
		if reject {
			out.PartialSuccess = &logsv1.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "no room"}
		} else {
			for _, l := range in.ResourceLogs[0].ScopeLogs[0].LogRecords {
				if err := c.take([]byte(l.Body.GetStringValue())); err != nil {
					t.Error(err)
				}
			}
		}
		answer, _ := proto.Marshal(out)
		w.Write(answer)
	}))
	t.Cleanup(server.Close)
	b.create(t, sink.New{Name: "otel", Organisation: "acme", Kind: noun.OTLP, Target: server.URL, CA: pemOf(server), Secret: "sesame", Format: noun.ECS, Since: time.Unix(1, 0)})
	b.write(t, 700, 10)
	defer b.ship("one")()
	b.await(t, c)
}

func TestASecretIsStoredSealedAndBoundToItsSink(t *testing.T) {
	b := newBench(t)
	s, secret := b.create(t, sink.New{Name: "siem", Organisation: "acme", Kind: noun.Webhook, Target: "https://siem.example/in"})
	stored, err := b.db.View().Sink(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) != 24 {
		t.Fatalf("got %q, %v", secret, err)
	}
	if bytes.Contains(stored.Sealed, key) || bytes.Contains(stored.Sealed, []byte(secret)) || len(stored.Sealed) == 0 {
		t.Error("the secret is stored as it is")
	}
	entries, err := b.db.View().EntriesFrom(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(string(e.After), secret) {
			t.Error("the secret is in the audit log")
		}
	}
}

func TestWhatIsWrongWithASinkIsSaid(t *testing.T) {
	b := newBench(t)
	for name, n := range map[string]sink.New{
		"kind":   {Name: "x", Kind: "carrier-pigeon", Target: "x"},
		"target": {Name: "x", Kind: noun.Webhook, Target: "ftp://x"},
		"format": {Name: "x", Kind: noun.Webhook, Target: "https://x", Format: "xml"},
		"secret": {Name: "x", Kind: noun.Webhook, Target: "https://x", Secret: "short"},
		"ca":     {Name: "x", Kind: noun.Webhook, Target: "https://x", CA: "nothing"},
		"name":   {Name: "", Kind: noun.File, Target: "x"},
	} {
		_, _, err := b.service.Create(admin, n)
		if f := fault.Of(err); f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0].Field != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, target := range []string{"../x", "a/b", ".hidden", ""} {
		if _, _, err := b.service.Create(admin, sink.New{Name: "x", Kind: noun.File, Target: target}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a file named %q: got %v", target, err)
		}
	}
}
