package witness_test

import (
	"crypto/ed25519"
	"fmt"
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/witness"
)

// history is a log as its owner writes it; one that forks from another has the same beginning.
type history struct {
	key    ed25519.PrivateKey
	name   string
	origin string
	leaves []ledger.Hash
}

func newHistory(t *testing.T) *history {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &history{key: key, name: ledger.KeyName("dep_test"), origin: ledger.Origin("dep_test", 1, "")}
}

func (h *history) grow(n int, what string) *history {
	for range n {
		h.leaves = append(h.leaves, ledger.LeafHash(fmt.Appendf(nil, "%s %d", what, len(h.leaves))))
	}
	return h
}

// after is another history that has the same first leaves.
func (h *history) after(n int) *history {
	out := *h
	out.leaves = append([]ledger.Hash(nil), h.leaves[:n]...)
	return &out
}

func (h *history) tree() ledger.Tree {
	return func(level int, index int64) (ledger.Hash, error) {
		var r ledger.Range
		for _, leaf := range h.leaves[index<<level : (index+1)<<level] {
			r.AddHash(leaf)
		}
		return r.Root(), nil
	}
}

func (h *history) public() ledger.Key {
	return ledger.Key{Name: h.name, Public: h.key.Public().(ed25519.PublicKey)}
}

// step leads from a size to the whole.
func (h *history) step(t *testing.T, base int64) witness.Step {
	t.Helper()
	size := int64(len(h.leaves))
	root, err := h.tree().Root(size)
	if err != nil {
		t.Fatal(err)
	}
	s := witness.Step{Key: h.public().String(), Checkpoint: ledger.Checkpoint{Origin: h.origin, Size: size, Root: root}.Sign(h.name, h.key), Base: base}
	if base > 0 && base <= size {
		if s.Proof, err = h.tree().Consistency(base, size); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestOnlyWhatAddsIsAccepted(t *testing.T) {
	h := newHistory(t).grow(700, "a")
	known, lost, err := witness.Judge(witness.Memory{}, h.step(t, 0))
	if err != nil || lost != "" || known.Checkpoint == "" {
		t.Fatalf("the first checkpoint: %v, %q, %v", known, lost, err)
	}
	other := newHistory(t).grow(900, "a")
	foreign := h.after(700).grow(1, "a")
	foreign.origin = ledger.Origin("dep_test", 2, "")
	unsigned := h.after(700).grow(5, "a").step(t, 700)
	unsigned.Checkpoint = unsigned.Checkpoint[:len(unsigned.Checkpoint)-8] + "AAAAAA=\n"
	for name, c := range map[string]struct {
		step witness.Step
		want string
	}{
		"growth":                      {h.after(700).grow(300, "a").step(t, 700), ""},
		"the same again":              {h.step(t, 0), ""},
		"growth of one":               {h.after(700).grow(1, "a").step(t, 700), ""},
		"another past":                {h.after(300).grow(500, "b").step(t, 700), "audit_log_rewritten"},
		"another past of that length": {h.after(699).grow(1, "b").step(t, 0), "audit_log_forked"},
		"less":                        {h.after(600).step(t, 0), "audit_log_truncated"},
		"another key":                 {other.step(t, 700), "audit_log_other_key"},
		"another log":                 {foreign.step(t, 700), "audit_log_other_log"},
		"a proof from elsewhere":      {h.after(700).grow(9, "a").step(t, 650), "audit_witness_base"},
		"no proof":                    {h.after(700).grow(9, "a").step(t, 0), "audit_witness_base"},
		"no signature":                {unsigned, "audit_log_unsigned"},
	} {
		next, lost, err := witness.Judge(known, c.step)
		code := ""
		if err != nil {
			code = fault.Of(err).Code
		}
		if code != c.want || lost != "" || c.want != "" && next != known || c.want == "" && next.Checkpoint != c.step.Checkpoint {
			t.Errorf("%s: got %q (%v), want %q", name, code, err, c.want)
		}
		if evidence := witness.Evidence(err); (c.want == "audit_log_rewritten" || c.want == "audit_log_forked" || c.want == "audit_log_truncated") != (len(evidence) > 0) && c.want != "audit_log_other_key" && c.want != "audit_log_other_log" {
			t.Errorf("%s: the evidence is %q", name, evidence)
		}
		if size, ok := witness.Remembers(code + ": " + message(err)); ok != (c.want == "audit_witness_base") || ok && size != 700 {
			t.Errorf("%s: remembered is said to be %d, %t", name, size, ok)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Message
}

// The log's key gave way to another: a host follows by the signatures of both, and by no other.
func TestAHostFollowsTheLogsKey(t *testing.T) {
	h := newHistory(t).grow(40, "a")
	known, _, err := witness.Judge(witness.Memory{}, h.step(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	next := *newHistory(t)
	next.leaves = h.after(40).grow(10, "a").leaves
	size := int64(len(next.leaves))
	root, err := next.tree().Root(size)
	if err != nil {
		t.Fatal(err)
	}
	handover := ledger.Checkpoint{Origin: h.origin, Size: size, Root: root, Handover: ledger.Handover{From: h.public().String(), To: next.public().String()}}
	s := next.after(50).grow(5, "a").step(t, 40)
	for name, c := range map[string]struct {
		handovers []string
		want      string
	}{
		"signed by both":     {[]string{handover.Sign(h.name, h.key, next.key)}, ""},
		"signed by the old":  {[]string{handover.Sign(h.name, h.key)}, "audit_log_other_key"},
		"signed by the next": {[]string{handover.Sign(h.name, next.key)}, "audit_log_other_key"},
		"not handed over":    {nil, "audit_log_other_key"},
	} {
		s.Handovers = c.handovers
		v, err := s.Section(section.Revision{Epoch: 1, Number: 1})
		if err != nil {
			t.Fatal(err)
		}
		sent, err := witness.FromSection(v)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := witness.Judge(known, sent)
		code := ""
		if err != nil {
			code = fault.Of(err).Code
		}
		if code != c.want || c.want == "" && got.Key != s.Key || c.want != "" && got != known {
			t.Errorf("%s: got %v, %q (%v), want %q", name, got, code, err, c.want)
		}
	}
}

// A restored backup begins a log that names the last checkpoint of the one before.
func TestALogThatGoesOnAfterARestore(t *testing.T) {
	h := newHistory(t).grow(500, "a")
	known, _, err := witness.Judge(witness.Memory{}, h.step(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	restored := func(end *history) (*history, string) {
		previous := end.step(t, 0).Checkpoint
		out := *h
		out.origin, out.leaves = ledger.Origin("dep_test", 2, previous), nil
		return out.grow(3, "c"), previous
	}
	for name, c := range map[string]struct {
		end  *history
		base int64
		lost bool
		want string
	}{
		"where it was":                    {h, 0, false, ""},
		"later":                           {h.after(500).grow(40, "a"), 500, false, ""},
		"later, without a proof":          {h.after(500).grow(40, "a"), 0, true, ""},
		"earlier":                         {h.after(450), 0, true, ""},
		"where it was, with another past": {h.after(400).grow(100, "b"), 0, false, "audit_log_forked"},
		"later, with another past":        {h.after(400).grow(200, "b"), 500, false, "audit_log_rewritten"},
	} {
		r, previous := restored(c.end)
		s := r.step(t, 0)
		s.Previous, s.Base = previous, c.base
		if c.base > 0 {
			if s.Proof, err = c.end.tree().Consistency(c.base, int64(len(c.end.leaves))); err != nil {
				t.Fatal(err)
			}
		}
		next, lost, err := witness.Judge(known, s)
		code := ""
		if err != nil {
			code = fault.Of(err).Code
		}
		if code != c.want || (lost != "") != c.lost || c.want == "" && next.Checkpoint != s.Checkpoint {
			t.Errorf("%s: got %q, lost %q, %v", name, code, lost, err)
		}
	}
	r, _ := restored(h)
	if _, _, err := witness.Judge(known, r.step(t, 0)); fault.Of(err).Code != "audit_log_other_log" {
		t.Errorf("a new log that names no other: got %v", err)
	}
}

func TestAStepIsTheSameAsASection(t *testing.T) {
	h := newHistory(t).grow(70, "a")
	for _, s := range []witness.Step{h.step(t, 0), h.step(t, 33), {Key: "k", Checkpoint: "c", Previous: "p"}} {
		v, err := s.Section(section.Revision{Epoch: 1, Number: 7})
		if err != nil {
			t.Fatal(err)
		}
		got, err := witness.FromSection(v)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(s) {
			t.Errorf("got %v, %v; want %v", got, err, s)
		}
	}
	for _, items := range [][]section.Item{
		nil,
		{{Key: "key", Value: []byte("k")}},
		{{Key: "key", Value: []byte("k")}, {Key: "checkpoint", Value: []byte("c")}, {Key: "base", Value: []byte("-1")}},
		{{Key: "key", Value: []byte("k")}, {Key: "checkpoint", Value: []byte("c")}, {Key: "proof", Value: []byte("short")}},
	} {
		v, err := section.New(witness.SectionName, section.Revision{Epoch: 1, Number: 1}, items)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := witness.FromSection(v); fault.Of(err).Code != "audit_witness_malformed" {
			t.Errorf("%v: got %v", items, err)
		}
	}
}
