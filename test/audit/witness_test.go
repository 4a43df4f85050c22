package audit

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	act "github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/host"
	noun "github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/storage"
	tokens "github.com/loopbackd/loopback/server/token"
	plans "github.com/loopbackd/loopback/server/witness"
	"github.com/loopbackd/loopback/test/plane"
	"github.com/loopbackd/loopback/witness"

	agent "github.com/loopbackd/loopback/agent/witness"
)

// memory is of the log's signer, and nobody's.
type memory struct{}

func (memory) Load() (string, error) { return "", nil }
func (memory) Store(string) error    { return nil }

// scene is a control plane with hosts that remember its log, and the modules on them.
type scene struct {
	*plane.Plane
	key     ed25519.PrivateKey
	ledger  *ledger.Service
	plans   *plans.Service
	ids     []string
	modules map[string]*agent.Module
	dirs    map[string]string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	p := plane.New(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Plane: p, key: key, modules: map[string]*agent.Module{}, dirs: map[string]string{}}
	s.ledger = ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](p.DB), ledger.Options{Deployment: "dep_test", Epoch: 1, Key: key, Memory: memory{}, Owner: "one", Now: p.Clock.Now,
		Logger: slog.New(slog.DiscardHandler)})
	s.plans = plans.New(plans.Options{Store: storage.Bind[plans.Reader, plans.Tx](p.DB), Ledger: s.ledger, Fleet: p.Fleet, Owner: "one", Now: p.Clock.Now, Logger: slog.New(slog.DiscardHandler)})
	m := p.Mint(t, tokens.Request{})
	for i := range 6 {
		h, err := p.Enrolment.Enrol(t.Context(), p.Enrol(t, m, fmt.Sprint("host-", i)))
		if err != nil {
			t.Fatal(err)
		}
		s.ids = append(s.ids, h.ID)
		modules := []host.Health{{Module: witness.SectionName, Healthy: true}}
		if i == 5 {
			modules = []host.Health{{Module: "settings", Healthy: true}} // of an earlier version
		}
		if err := p.Fleet.Observer().Observe(t.Context(), []link.Observation{{HostID: h.ID, Modules: &modules}}); err != nil {
			t.Fatal(err)
		}
		s.dirs[h.ID] = t.TempDir()
		s.start(h.ID)
	}
	p.Follow(t)
	return s
}

// start is the agent's start on a host.
func (s *scene) start(id string) {
	s.modules[id] = agent.New(s.dirs[id], slog.New(slog.DiscardHandler))
}

// wanted is the section that a host is sent.
func (s *scene) wanted(id string) (section.Section, bool) {
	for _, v := range s.Fleet.Desired(id) {
		if v.Name == witness.SectionName {
			return v.Section, true
		}
	}
	return section.Section{}, false
}

// round writes into the log, has it signed, leads hosts on, and has those that are up apply and report.
func (s *scene) round(t *testing.T, up func(id string) bool) map[string]section.Status {
	t.Helper()
	s.Clock.Pass(time.Hour)
	if err := s.DB.Observe(t.Context(), func(tx *storage.Tx) error {
		for range 10 {
			if err := tx.Audit(t.Context(), act.Entry{Action: "hosts.label", Actor: access.Actor{Kind: access.System}}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.ledger.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.plans.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Follow(t)
	out := map[string]section.Status{}
	for _, id := range s.ids {
		v, ok := s.wanted(id)
		if !ok || !up(id) {
			continue
		}
		st := s.modules[id].Apply(t.Context(), v)
		st.Name, st.Revision = v.Name, v.Revision
		out[id] = st
		if err := s.Fleet.Observer().Observe(t.Context(), []link.Observation{{HostID: id, Sections: []section.Status{st}}}); err != nil {
			t.Fatal(err)
		}
	}
	s.Follow(t)
	return out
}

func all(string) bool { return true }

// remembers is the size that a host remembers.
func (s *scene) remembers(t *testing.T, id string) int64 {
	t.Helper()
	c, err := s.ledger.Key().Open(s.modules[id].Memory().Checkpoint)
	if err != nil {
		t.Fatalf("%s remembers %v: %v", id, s.modules[id].Memory(), err)
	}
	return c.Size
}

func TestSomeHostsRememberTheLogAndFollowItsGrowth(t *testing.T) {
	s := newScene(t)
	first := s.round(t, all)
	if len(first) != witness.Each {
		t.Fatalf("%d hosts are to remember, want %d", len(first), witness.Each)
	}
	if _, ok := first[s.ids[5]]; ok {
		t.Error("a host without the module is to remember")
	}
	var away string
	for id, st := range first {
		if st.State != section.Applied || !strings.HasPrefix(st.Message, "remembers ") {
			t.Errorf("%s: got %+v", id, st)
		}
		away = id
	}
	var size int64
	for range 3 {
		got := s.round(t, func(id string) bool { return id != away })
		for id, st := range got {
			if _, ok := first[id]; !ok || st.State != section.Applied {
				t.Errorf("%s: got %+v, want the same hosts led on", id, st)
			}
			if now := s.remembers(t, id); now <= size-10 {
				t.Errorf("%s remembers %d", id, now)
			} else {
				size = max(size, now)
			}
			s.start(id) // what is remembered outlives a restart
		}
	}
	if got := s.remembers(t, away); got >= size {
		t.Fatalf("who was away remembers %d of %d", got, size)
	}
	for range 3 { // led on from what it confirmed last
		if st := s.round(t, all)[away]; st.State != section.Applied {
			t.Fatalf("back again: got %+v", st)
		}
	}
	l, err := s.ledger.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.remembers(t, away); got != l.Signed {
		t.Errorf("it remembers %d of %d", got, l.Signed)
	}

	// An older state of a host is put back: it is led on from what it remembers then.
	old, err := os.ReadFile(filepath.Join(s.dirs[away], agent.Folder, agent.File))
	if err != nil {
		t.Fatal(err)
	}
	s.round(t, all)
	s.round(t, all)
	if err := os.WriteFile(filepath.Join(s.dirs[away], agent.Folder, agent.File), old, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(away)
	if st := s.round(t, all)[away]; st.State != section.Failed || !strings.HasPrefix(st.Message, "audit_witness_base: ") {
		t.Errorf("with an older state: got %+v", st)
	}
	if st := s.round(t, all)[away]; st.State != section.Applied {
		t.Errorf("led on from there: got %+v", st)
	}
	listed, err := s.plans.List(plane.AsAdmin(t.Context()))
	if err != nil || len(listed) != witness.Each || listed[0].Status.State != section.Applied || listed[0].Name == "" {
		t.Errorf("got %v, %v", listed, err)
	}
}

func TestAHostRefusesARewrittenLogAndKeepsTheEvidence(t *testing.T) {
	s := newScene(t)
	s.round(t, all)
	var id string
	for id = range s.round(t, all) {
	}
	known := s.modules[id].Memory()
	// The owner of the key signs another past, and sends it with a proof that fits it.
	c, err := s.ledger.Key().Open(known.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	var other noun.Range
	for i := range c.Size + 5 {
		other.AddHash(noun.LeafHash(fmt.Append(nil, i)))
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forge := func(step witness.Step) section.Status {
		v, err := step.Section(section.Revision{Epoch: 1, Number: 1 << 40})
		if err != nil {
			t.Fatal(err)
		}
		return s.modules[id].Apply(t.Context(), v)
	}
	name := noun.KeyName("dep_test")
	mine := noun.Checkpoint{Origin: c.Origin, Size: other.Size(), Root: other.Root()}.Sign(name, s.key)
	st := forge(witness.Step{Key: known.Key, Checkpoint: mine, Base: c.Size, Proof: []noun.Hash{other.Root(), c.Root}})
	if st.State != section.Failed || !strings.HasPrefix(st.Message, "audit_log_rewritten: ") {
		t.Errorf("another past: got %+v", st)
	}
	st = forge(witness.Step{Key: known.Key, Checkpoint: noun.Checkpoint{Origin: c.Origin, Size: c.Size, Root: other.Root()}.Sign(name, s.key)})
	if st.State != section.Failed || !strings.HasPrefix(st.Message, "audit_log_forked: ") {
		t.Errorf("another past of that length: got %+v", st)
	}
	st = forge(witness.Step{Key: noun.Key{Name: name, Public: key.Public().(ed25519.PublicKey)}.String(),
		Checkpoint: noun.Checkpoint{Origin: c.Origin, Size: other.Size(), Root: other.Root()}.Sign(name, key), Base: c.Size})
	if st.State != section.Failed || !strings.HasPrefix(st.Message, "audit_log_other_key: ") {
		t.Errorf("signed by another key: got %+v", st)
	}
	forked := s.modules[id]
	s.start(id) // a restart in between changes nothing
	if s.modules[id].Memory() != known || forked.Memory() != known {
		t.Errorf("it remembers %v, want what it did", s.modules[id].Memory())
	}
	files, err := filepath.Glob(filepath.Join(s.dirs[id], agent.Folder, "evidence-*.txt"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v: want the evidence", files, err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), known.Checkpoint) {
			t.Errorf("the evidence is %s, %v", text, err)
		}
	}
	// What is remembered and cannot be read is not taken for nothing.
	if err := os.WriteFile(filepath.Join(s.dirs[id], agent.Folder, agent.File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(id)
	if st := forge(witness.Step{Key: known.Key, Checkpoint: known.Checkpoint}); st.State != section.Failed || !strings.HasPrefix(st.Message, "audit_memory_damaged: ") || s.modules[id].Health().Healthy {
		t.Errorf("a damaged memory: got %+v", st)
	}
}
