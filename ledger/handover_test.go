package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/loopbackd/loopback/ledger"
)

// rotated is a log that was signed by several keys one after the other.
type rotated struct {
	name      string
	private   []ed25519.PrivateKey
	keys      []ledger.Key
	handovers []string
	tree      ledger.Range
	bodies    [][]byte
	old       []string // a checkpoint by each key
}

const rotatedOrigin = "loopback/dep_test/audit/1"

func newRotated(t *testing.T, keys int) *rotated {
	t.Helper()
	r := &rotated{name: ledger.KeyName("dep_test")}
	for i := range keys {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.private = append(r.private, key)
		r.keys = append(r.keys, ledger.Key{Name: r.name, Public: key.Public().(ed25519.PublicKey)})
		if i > 0 {
			r.add(3)
			c := r.checkpoint()
			c.Handover = ledger.Handover{From: r.keys[i-1].String(), To: r.keys[i].String()}
			r.handovers = append(r.handovers, c.Sign(r.name, r.private[i-1], key))
		}
		r.add(5)
		r.old = append(r.old, r.checkpoint().Sign(r.name, key))
	}
	return r
}

func (r *rotated) add(n int) {
	for range n {
		e := entry(rand.New(rand.NewPCG(1, uint64(r.tree.Size()))), r.tree.Size()+1)
		b := ledger.Encode(e)
		r.tree.Add(b)
		r.bodies = append(r.bodies, b)
	}
}

func (r *rotated) checkpoint() ledger.Checkpoint {
	return ledger.Checkpoint{Origin: rotatedOrigin, Size: r.tree.Size(), Root: r.tree.Root()}
}

func (r *rotated) bundle(t *testing.T, change func(*ledger.Header)) *bytes.Reader {
	t.Helper()
	h := ledger.Header{Checkpoint: r.old[len(r.old)-1], Key: r.keys[len(r.keys)-1].String(), Handovers: r.handovers}
	if change != nil {
		change(&h)
	}
	var out bytes.Buffer
	w, err := ledger.NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.bodies {
		if err := w.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(out.Bytes())
}

// Who holds an old key and an old checkpoint follows the log across every rotation; nobody else is followed.
func TestAnOldKeyLeadsAcrossRotations(t *testing.T) {
	r := newRotated(t, 4)
	for i, k := range r.keys {
		if last := k.Chain(r.handovers).Last(); last.String() != r.keys[3].String() || len(k.Chain(r.handovers)) != 4 {
			t.Errorf("key %d leads to %s, want the last", i, last)
		}
		for j := range r.old {
			report, err := ledger.Verify(r.bundle(t, nil), ledger.Trust{Key: k, Checkpoints: []string{r.old[j]}}, nil)
			if err != nil || report.Key.String() != r.keys[3].String() || report.Witnessed == 0 {
				t.Errorf("key %d, checkpoint %d: got %v, %v", i, j, report, err)
			}
		}
	}
	kind := func(err error) ledger.Kind {
		var f *ledger.Finding
		if !errors.As(err, &f) {
			return ""
		}
		return f.Kind
	}
	stranger := newRotated(t, 2)
	forged := r.checkpoint()
	forged.Handover = ledger.Handover{From: r.keys[0].String(), To: stranger.keys[0].String()}
	tampered := strings.Replace(r.handovers[1], "\n", "\n\n", 1)
	for name, c := range map[string]struct {
		change func(*ledger.Header)
		key    ledger.Key
		want   ledger.Kind
	}{
		"a stranger's key":          {nil, stranger.keys[0], ledger.OtherKey},
		"a handover is missing":     {func(h *ledger.Header) { h.Handovers = append(h.Handovers[:1:1], h.Handovers[2:]...) }, r.keys[0], ledger.OtherKey},
		"no handover":               {func(h *ledger.Header) { h.Handovers = nil }, r.keys[0], ledger.OtherKey},
		"one more, of a stranger's": {func(h *ledger.Header) { h.Handovers = append(h.Handovers[:3:3], stranger.handovers...) }, r.keys[3], ledger.Unsigned},
		"a handover that only the new signed": {func(h *ledger.Header) {
			h.Handovers = []string{forged.Sign(r.name, stranger.private[0])}
			h.Key = stranger.keys[0].String()
		}, r.keys[0], ledger.OtherKey},
		"a handover that only the old signed": {func(h *ledger.Header) {
			h.Handovers = []string{forged.Sign(r.name, r.private[0])}
			h.Key = stranger.keys[0].String()
		}, r.keys[0], ledger.OtherKey},
		"a handover that was tampered with":    {func(h *ledger.Header) { h.Handovers = []string{r.handovers[0], tampered, r.handovers[2]} }, r.keys[0], ledger.OtherKey},
		"the checkpoint is by an older key":    {func(h *ledger.Header) { h.Checkpoint = r.checkpoint().Sign(r.name, r.private[1]) }, r.keys[0], ledger.Unsigned},
		"it says that it is by an older key":   {func(h *ledger.Header) { h.Key = r.keys[2].String() }, r.keys[0], ledger.OtherKey},
		"nothing is trusted, a handover added": {func(h *ledger.Header) { h.Handovers = append(h.Handovers[:3:3], stranger.handovers...) }, ledger.Key{}, ledger.Unsigned},
	} {
		if _, err := ledger.Verify(r.bundle(t, c.change), ledger.Trust{Key: c.key, Checkpoints: r.old[:1]}, nil); kind(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	// Another past behind a rotation is found as ever.
	other := newRotated(t, 1)
	other.private, other.keys = r.private[:1], r.keys[:1]
	outside := ledger.Checkpoint{Origin: rotatedOrigin, Size: 3, Root: other.tree.Root()}.Sign(r.name, r.private[0])
	if _, err := ledger.Verify(r.bundle(t, nil), ledger.Trust{Key: r.keys[0], Checkpoints: []string{outside}}, nil); kind(err) != ledger.Rewritten {
		t.Errorf("another past: got %v", err)
	}
}

// Others that read signed notes take a handover for a checkpoint with an extension line, signed by both.
func TestAHandoverIsASignedNote(t *testing.T) {
	r := newRotated(t, 2)
	var verifiers []note.Verifier
	for _, k := range r.keys {
		v, err := note.NewVerifier(k.String())
		if err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open([]byte(r.handovers[0]), note.VerifierList(verifiers...))
	if err != nil || len(n.Sigs) != 2 || !strings.Contains(n.Text, "\nloopback-log-key "+r.keys[0].String()+" "+r.keys[1].String()+"\n") {
		t.Errorf("got %v, %v", n, err)
	}
	c, err := r.keys[0].Open(r.handovers[0])
	if err != nil || c.Handover.To != r.keys[1].String() || c.Text() != n.Text {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, text := range []string{"loopback-log-key a b", "loopback-log-key " + r.keys[0].String() + " " + r.keys[0].String(), "something else", "loopback-log-key " + r.keys[0].String()} {
		parts := strings.Split(c.Text(), "\n")
		parts[3] = text
		if _, err := r.keys[0].Open(strings.Join(parts, "\n") + "\n" + strings.SplitN(r.handovers[0], "\n\n", 2)[1]); err == nil {
			t.Errorf("%q was taken for a fourth line", text)
		}
	}
}
