package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/loopbackd/loopback/ledger"
)

// A line of a bundle under attack: an entry with its position, or a hash.
type line struct {
	text []byte
	body bool
}

// past is a log as its owner has it.
type past struct {
	began    int64
	previous string
	key      ed25519.PrivateKey
	origin   string
	lines    []line
}

const keyName = "loopback/dep_x/audit"

func newPast(r *rand.Rand, n int, key ed25519.PrivateKey) *past {
	p := &past{began: r.Int64N(1000), key: key, origin: ledger.Origin("dep_x", 1, "")}
	if r.IntN(2) == 0 {
		p.previous = ledger.Checkpoint{Origin: p.origin, Size: p.began, Root: ledger.LeafHash([]byte("x"))}.Sign(keyName, key)
		p.origin = ledger.Origin("dep_x", 2, p.previous)
	}
	for i := range n {
		leaf := ledger.Encode(entry(r, p.began+1+int64(i)))
		if i > 0 && r.IntN(8) == 0 {
			h := ledger.LeafHash(leaf)
			var b bytes.Buffer
			w, _ := ledger.NewWriter(&b, ledger.Header{})
			_ = w.AddHash(h)
			_ = w.Close()
			_, text, _ := bytes.Cut(b.Bytes(), []byte("\n"))
			p.lines = append(p.lines, line{bytes.TrimSuffix(text, []byte("\n")), false})
			continue
		}
		p.lines = append(p.lines, line{leaf, true})
	}
	return p
}

// sign is the checkpoint over the first n lines.
func (p *past) sign(t testing.TB, n int) string {
	var tree ledger.Range
	for _, l := range p.lines[:n] {
		if l.body {
			tree.Add(l.text)
			continue
		}
		r, err := ledger.NewReader(bytes.NewReader(append(header(t), append(l.text, '\n')...)))
		if err != nil {
			t.Fatal(err)
		}
		_, h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		tree.AddHash(h)
	}
	return ledger.Checkpoint{Origin: p.origin, Size: int64(n), Root: tree.Root()}.Sign(keyName, p.key)
}

func header(t testing.TB) []byte {
	var b bytes.Buffer
	w, err := ledger.NewWriter(&b, ledger.Header{})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (p *past) public() ledger.Key {
	return ledger.Key{Name: keyName, Public: p.key.Public().(ed25519.PublicKey)}
}

// bundle is the file, with a checkpoint that may be another past's.
func (p *past) bundle(t testing.TB, checkpoint string) []byte {
	var b bytes.Buffer
	w, err := ledger.NewWriter(&b, ledger.Header{Began: p.began, Checkpoint: checkpoint, Key: p.public().String(), Previous: p.previous})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range p.lines {
		b.Write(l.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (p *past) clone() *past {
	c := *p
	c.lines = slices.Clone(p.lines)
	return &c
}

// alter changes an entry so that it still is one.
func (p *past) alter(r *rand.Rand, from, to int) bool {
	for range 100 {
		if i := from + r.IntN(to-from); p.lines[i].body {
			p.lines[i].text = bytes.Replace(p.lines[i].text, []byte(`"outcome":"done"`), []byte(`"outcome":"refused"`), 1)
			return true
		}
	}
	return false
}

// dice are seeded, and say with what.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LOOPBACK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("LOOPBACK_SEED=%q: %v", s, err)
		}
	}
	t.Logf("LOOPBACK_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// mutations are what can be done to a bundle, each with the kinds that name it. One that changes nothing returns nil.
var mutations = []struct {
	name  string
	kinds []ledger.Kind
	do    func(t testing.TB, r *rand.Rand, p *past, note string, witnessed int) ([]byte, []string, []ledger.Kind)
}{
	{"a bit is flipped in an entry", []ledger.Kind{ledger.Altered, ledger.Duplicated, ledger.Reordered, ledger.Appended}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		b := p.bundle(t, note)
		from := bytes.IndexByte(b, '\n') + 1
		at := from + r.IntN(len(b)-1-from)
		b[at] ^= 1 << r.IntN(8)
		return b, nil, nil
	}},
	{"a bit is flipped in the header", []ledger.Kind{ledger.Malformed, ledger.OtherKey, ledger.Unsigned, ledger.OtherLog, ledger.Altered}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		b := p.bundle(t, note)
		b[r.IntN(bytes.IndexByte(b, '\n')+1)] ^= 1 << r.IntN(8)
		return b, nil, nil
	}},
	{"entries are dropped", nil, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		at := r.IntN(len(p.lines) - 1)
		n := 1 + r.IntN(min(3, len(p.lines)-1-at))
		p.lines = slices.Delete(p.lines, at, at+n)
		kind := ledger.Truncated // nothing but hashes follows: where they are missing cannot be told
		if slices.ContainsFunc(p.lines[at:], func(l line) bool { return l.body }) {
			kind = ledger.Dropped
		}
		return p.bundle(t, note), nil, []ledger.Kind{kind}
	}},
	{"entries change places", nil, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		i, j := r.IntN(len(p.lines)), r.IntN(len(p.lines))
		if bytes.Equal(p.lines[i].text, p.lines[j].text) {
			return nil, nil, nil
		}
		p.lines[i], p.lines[j] = p.lines[j], p.lines[i]
		switch {
		case p.lines[i].body && p.lines[j].body:
			return p.bundle(t, note), nil, []ledger.Kind{ledger.Reordered}
		}
		return p.bundle(t, note), nil, []ledger.Kind{ledger.Altered, ledger.Malformed} // hashes have no positions
	}},
	{"an entry is there twice", nil, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		l := p.lines[r.IntN(len(p.lines))]
		p.lines = slices.Insert(p.lines, r.IntN(len(p.lines)+1), l)
		if l.body {
			return p.bundle(t, note), nil, []ledger.Kind{ledger.Duplicated}
		}
		return p.bundle(t, note), nil, []ledger.Kind{ledger.Appended}
	}},
	{"the file is cut off", []ledger.Kind{ledger.Truncated, ledger.Malformed}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		b := p.bundle(t, note)
		return b[:r.IntN(len(b))], nil, nil
	}},
	{"entries are added", []ledger.Kind{ledger.Appended}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		p.lines = append(p.lines, line{ledger.Encode(entry(r, p.began+int64(len(p.lines))+1)), true})
		return p.bundle(t, note), nil, nil
	}},
	{"the owner of the key signs another past", []ledger.Kind{ledger.Rewritten}, func(t testing.TB, r *rand.Rand, p *past, _ string, witnessed int) ([]byte, []string, []ledger.Kind) {
		outside := p.sign(t, witnessed)
		if !p.alter(r, 0, witnessed) {
			return nil, nil, nil
		}
		return p.bundle(t, p.sign(t, len(p.lines))), []string{outside}, nil
	}},
	{"the owner of the key signs a shorter past", []ledger.Kind{ledger.Truncated}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		p.lines = p.lines[:1+r.IntN(len(p.lines)-1)]
		return p.bundle(t, p.sign(t, len(p.lines))), []string{note}, nil
	}},
	{"another key signs", []ledger.Kind{ledger.OtherKey}, func(t testing.TB, r *rand.Rand, p *past, _ string, _ int) ([]byte, []string, []ledger.Kind) {
		p.alter(r, 0, len(p.lines))
		seed := make([]byte, ed25519.SeedSize)
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		p.key = ed25519.NewKeyFromSeed(seed)
		if p.previous != "" {
			p.previous = ledger.Checkpoint{Origin: "x", Size: 1}.Sign(keyName, p.key)
			p.origin = ledger.Origin("dep_x", 2, p.previous)
		}
		return p.bundle(t, p.sign(t, len(p.lines))), nil, nil
	}},
	{"the checkpoint is altered and keeps its signature", []ledger.Kind{ledger.Unsigned}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		p.alter(r, 0, len(p.lines))
		text, _, _ := cutNote(p.sign(t, len(p.lines)))
		_, signatures, _ := cutNote(note)
		if other, _, _ := cutNote(note); other == text {
			return nil, nil, nil
		}
		return p.bundle(t, text+"\n"+signatures), nil, nil
	}},
	{"two signers part", []ledger.Kind{ledger.Forked}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		at := r.IntN(len(p.lines)) // both have what is before
		for i := at; i < len(p.lines); i++ {
			p.lines[i] = line{ledger.Encode(entry(r, p.began+1+int64(i))), true}
		}
		forked := p.sign(t, len(p.lines))
		if forked == note {
			return nil, nil, nil
		}
		return p.bundle(t, forked), []string{note}, nil
	}},
	{"a whole other log is shown", []ledger.Kind{ledger.OtherLog}, func(t testing.TB, r *rand.Rand, p *past, note string, _ int) ([]byte, []string, []ledger.Kind) {
		p.previous = ledger.Checkpoint{Origin: "x", Size: 1 + r.Int64N(1000)}.Sign(keyName, p.key)
		p.origin = ledger.Origin("dep_x", 3, p.previous)
		return p.bundle(t, p.sign(t, len(p.lines))), []string{note}, nil
	}},
}

// Every way of changing a log is found, and named as what it is.
func TestEveryMutationIsFoundAndNamed(t *testing.T) {
	many := 4000
	if os.Getenv("LOOPBACK_SOAK") != "" {
		many = 100_000
	}
	r := dice(t)
	found := map[string]int{}
	var p *past
	var note string
	for done := 0; done < many; {
		if done%200 == 0 { // another log from time to time
			seed := make([]byte, ed25519.SeedSize)
			for i := range seed {
				seed[i] = byte(r.Uint32())
			}
			p = newPast(r, 2+r.IntN(120), ed25519.NewKeyFromSeed(seed))
			note = p.sign(t, len(p.lines))
			whole := p.bundle(t, note)
			if report, err := ledger.Verify(bytes.NewReader(whole), ledger.Trust{Key: p.public(), Checkpoints: []string{note}}, nil); err != nil || report.Witnessed != int64(len(p.lines)) {
				t.Fatalf("what nobody touched is not verified: %+v, %v", report, err)
			}
		}
		m := mutations[r.IntN(len(mutations))]
		witnessed := 1 + r.IntN(len(p.lines)-1)
		b, outside, kinds := m.do(t, r, p.clone(), note, witnessed)
		if b == nil {
			continue
		}
		if kinds == nil {
			kinds = m.kinds
		}
		_, err := ledger.Verify(bytes.NewReader(b), ledger.Trust{Key: p.public(), Checkpoints: outside}, nil)
		var f *ledger.Finding
		if !errors.As(err, &f) {
			t.Fatalf("%s: got %v, want a finding; the file is\n%s", m.name, err, b)
		}
		if !slices.Contains(kinds, f.Kind) {
			t.Fatalf("%s: got %q (%v), want one of %v; the file is\n%.4000s", m.name, f.Kind, f, kinds, b)
		}
		if (f.Kind == ledger.Rewritten || f.Kind == ledger.Forked) && len(f.Evidence) != 2 {
			t.Fatalf("%s: the evidence is %q, want both checkpoints", m.name, f.Evidence)
		}
		found[m.name]++
		done++
	}
	for _, m := range mutations {
		if found[m.name] == 0 {
			t.Errorf("%s: never happened", m.name)
		}
		t.Logf("%s: %d of %d found", m.name, found[m.name], found[m.name])
	}
}

func FuzzVerify(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 7))
	p := newPast(r, 20, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	whole := p.bundle(f, p.sign(f, len(p.lines)))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ledger.Verify(bytes.NewReader(b), ledger.Trust{Key: p.public()}, nil)
		if err == nil && !bytes.Equal(b, whole) {
			t.Fatalf("another file is verified:\n%q", b)
		}
	})
}

func FuzzNote(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	k := ledger.Key{Name: keyName, Public: key.Public().(ed25519.PublicKey)}
	note := ledger.Checkpoint{Origin: "x", Size: 3}.Sign(keyName, key)
	f.Add(note)
	f.Add(note + "— other AAAAAAAA\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := k.Open(s)
		if err == nil && (c.Origin != "x" || c.Size != 3 || c.Root != ledger.Hash{}) {
			t.Fatalf("a note of %+v opens", c)
		}
		_, _ = k.Open(s)
	})
}

func FuzzKey(f *testing.F) {
	f.Add(ledger.Key{Name: keyName, Public: make([]byte, ed25519.PublicKeySize)}.String())
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ledger.ParseKey(s)
		if err != nil {
			return
		}
		again, err := ledger.ParseKey(k.String())
		if err != nil || again.String() != k.String() {
			t.Fatalf("%q is read as %s, and that not again: %v", s, k, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(ledger.Encode(entry(rand.New(rand.NewPCG(1, 1)), 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ledger.Decode(b)
		if err != nil {
			return
		}
		leaf := ledger.Encode(e)
		back, err := ledger.Decode(leaf)
		if err != nil {
			t.Fatalf("%q is encoded as %q, which cannot be read: %v", b, leaf, err)
		}
		if again := ledger.Encode(back); !bytes.Equal(again, leaf) {
			t.Fatalf("%q becomes %q", leaf, again)
		}
	})
}
