package ledger_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/ledger"
)

// oracle is a tree as golang.org/x/mod keeps it.
type oracle struct {
	hashes []tlog.Hash
	size   int64
}

func (o *oracle) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, a := range at {
		out[i] = o.hashes[a]
	}
	return out, nil
}

func (o *oracle) add(t testing.TB, data []byte) {
	h, err := tlog.StoredHashes(o.size, data, o)
	if err != nil {
		t.Fatal(err)
	}
	o.hashes, o.size = append(o.hashes, h...), o.size+1
}

func (o *oracle) root(t testing.TB, n int64) ledger.Hash {
	h, err := tlog.TreeHash(n, o)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Hash(h)
}

// forest keeps tiles in memory.
type forest map[ledger.TileID][]byte

func (f forest) read(id ledger.TileID) ([]byte, error) { return f[id], nil }

func (f forest) grow(t testing.TB, size int64, leaves []ledger.Hash) ledger.Hash {
	t.Helper()
	g, err := ledger.Grow(size, f.read)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range leaves {
		if err := g.Add(h); err != nil {
			t.Fatal(err)
		}
	}
	for _, tile := range g.Changed() {
		f[tile.TileID] = tile.Hashes
	}
	return g.Root()
}

func TestTreesAndProofsAreThoseOfTheOracle(t *testing.T) {
	o, f := &oracle{}, forest{}
	r := mrand.New(mrand.NewPCG(1, 2))
	var size int64
	for size < 70_000 {
		var leaves []ledger.Hash
		for range 1 + r.IntN(3000) {
			data := []byte(fmt.Sprint("leaf ", size+int64(len(leaves))))
			o.add(t, data)
			leaves = append(leaves, ledger.LeafHash(data))
		}
		root := f.grow(t, size, leaves)
		size += int64(len(leaves))
		if want := o.root(t, size); root != want {
			t.Fatalf("size %d: got root %x, want %x", size, root, want)
		}
		tree := ledger.Tiles(f.read)
		for range 8 {
			to := 1 + r.Int64N(size)
			from, index := r.Int64N(to+1), r.Int64N(to)
			rootFrom, _ := tree.Root(from)
			rootTo, err := tree.Root(to)
			if err != nil || to > 0 && rootTo != o.root(t, to) || from > 0 && rootFrom != o.root(t, from) {
				t.Fatalf("roots of %d and %d differ from the oracle's (%v)", from, to, err)
			}
			got, err := tree.Inclusion(index, to)
			if err != nil {
				t.Fatal(err)
			}
			want, err := tlog.ProveRecord(to, index, o)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want)
			leaf := ledger.LeafHash([]byte(fmt.Sprint("leaf ", index)))
			if !ledger.Includes(leaf, index, to, rootTo, got) {
				t.Fatalf("the proof of leaf %d in %d does not hold", index, to)
			}
			if ledger.Includes(leaf, index, to, rootFrom, got) && rootFrom != rootTo {
				t.Fatal("a proof holds against another root")
			}
			if got, err = tree.Consistency(from, to); err != nil {
				t.Fatal(err)
			}
			if from > 0 && from < to {
				wanted, err := tlog.ProveTree(to, from, o)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, wanted)
			}
			if !ledger.Extends(from, rootFrom, to, rootTo, got) {
				t.Fatalf("the proof from %d to %d does not hold", from, to)
			}
		}
	}
}

func same[T ~[]tlog.Hash](t *testing.T, got []ledger.Hash, want T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got a proof of %d hashes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != ledger.Hash(want[i]) {
			t.Fatalf("hash %d of the proof differs from the oracle's", i)
		}
	}
}

// Any change to a proof, and any other index, size or root, makes it fail.
func TestNoOtherProofHolds(t *testing.T) {
	f := forest{}
	var leaves []ledger.Hash
	for i := range 700 {
		leaves = append(leaves, ledger.LeafHash([]byte(fmt.Sprint(i))))
	}
	f.grow(t, 0, leaves)
	tree := ledger.Tiles(f.read)
	rapid.Check(t, func(t *rapid.T) {
		to := rapid.Int64Range(2, 700).Draw(t, "to")
		from := rapid.Int64Range(1, to-1).Draw(t, "from")
		index := rapid.Int64Range(0, to-1).Draw(t, "index")
		a, _ := tree.Root(from)
		b, _ := tree.Root(to)
		in, _ := tree.Inclusion(index, to)
		con, _ := tree.Consistency(from, to)
		bit := rapid.IntRange(0, 255).Draw(t, "bit")
		if n := len(in); n > 0 {
			i := rapid.IntRange(0, n-1).Draw(t, "hash")
			in[i][bit/8] ^= 1 << (bit % 8)
			if ledger.Includes(leaves[index], index, to, b, in) {
				t.Fatal("a changed inclusion proof holds")
			}
			in[i][bit/8] ^= 1 << (bit % 8)
			if ledger.Includes(leaves[index], index, to, b, in[:n-1]) || ledger.Includes(leaves[index], index, to, b, append(in, in[0])) {
				t.Fatal("a proof of another length holds")
			}
		}
		if other := rapid.Int64Range(0, to-1).Draw(t, "other"); other != index && ledger.Includes(leaves[index], other, to, b, in) {
			t.Fatal("a proof holds for another index")
		}
		i := rapid.IntRange(0, len(con)-1).Draw(t, "which")
		con[i][bit/8] ^= 1 << (bit % 8)
		if ledger.Extends(from, a, to, b, con) {
			t.Fatal("a changed consistency proof holds")
		}
		con[i][bit/8] ^= 1 << (bit % 8)
		a[bit/8] ^= 1 << (bit % 8)
		if ledger.Extends(from, a, to, b, con) {
			t.Fatal("a consistency proof holds from another root")
		}
	})
}

func TestNotesAreThoseOfTheOracle(t *testing.T) {
	secret, public, err := note.GenerateKey(rand.Reader, "loopback/dep_x/audit")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ledger.ParseKey(public)
	if err != nil || key.String() != public {
		t.Fatalf("got %v, %v; want %s", key, err, public)
	}
	c := ledger.Checkpoint{Origin: ledger.Origin("dep_x", 1, ""), Size: 12345, Root: ledger.LeafHash([]byte("x"))}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.Sign(&note.Note{Text: c.Text()}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Open(string(theirs)); err != nil || got != c {
		t.Fatalf("got %+v, %v from the oracle's note", got, err)
	}
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	ours := c.Sign("ours", private)
	verifier, err := note.NewVerifier(ledger.Key{Name: "ours", Public: private.Public().(ed25519.PublicKey)}.String())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open([]byte(ours), note.VerifierList(verifier)); err != nil || n.Text != c.Text() {
		t.Fatalf("the oracle reads %+v, %v from our note", n, err)
	}
	if _, err := key.Open(ours); err == nil {
		t.Fatal("a note by another key opens")
	}
	both, err := note.Sign(&note.Note{Text: c.Text(), Sigs: nil}, signer)
	if err != nil {
		t.Fatal(err)
	}
	_, ourSignature, _ := cutNote(ours)
	if got, err := key.Open(string(both) + ourSignature); err != nil || got != c {
		t.Fatalf("got %+v, %v from a note with a second signature", got, err)
	}
}

func cutNote(s string) (text, signatures string, ok bool) {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '\n' && s[i+1] == '\n' {
			return s[:i+1], s[i+2:], true
		}
	}
	return s, "", false
}

func entry(r *mrand.Rand, position int64) audit.Entry {
	e := audit.Entry{
		Position: position, ID: fmt.Sprintf("aud_%026d", position), At: time.UnixMicro(1_700_000_000_000_000 + position*1000).UTC(),
		Actor:  access.Actor{Kind: access.APIKey, ID: "key_1", Name: "Ada <\"\\>\t", Address: "192.0.2.7"},
		Action: "hosts.label", Scope: access.Scope{Organisation: "org_1", Workspace: "ws_1"}, Target: "hst_1", Name: "web-1",
		Outcome: audit.Done, Decision: "key_1",
	}
	if r.IntN(2) == 0 {
		e = e.Change(map[string]any{"b": r.IntN(100), "a": []int{1}}, map[string]any{"z": nil, "labels": map[string]string{"env": "prod"}})
	}
	if r.IntN(4) == 0 {
		e.Reason, e.Ticket, e.RequestID = "größer & <schneller>", "OPS-1", "req"
	}
	if r.IntN(4) == 0 {
		e.Actor.Principal, e.Actor.MFA, e.Snapshot = "usr_1", time.UnixMicro(1_700_000_000_000_000).UTC(), 7
	}
	return e
}

func TestEntriesSurviveTheirEncoding(t *testing.T) {
	r := mrand.New(mrand.NewPCG(3, 3))
	for i := range int64(500) {
		e := entry(r, i+1)
		leaf := ledger.Encode(e)
		if !json.Valid(leaf) {
			t.Fatalf("got %s, no JSON", leaf)
		}
		if again, err := audit.Canonical(leaf); err != nil || string(again) != string(leaf) {
			t.Fatalf("got\n%s, whose canonical form is\n%s (%v)", leaf, again, err)
		}
		back, err := ledger.Decode(leaf)
		if err != nil {
			t.Fatal(err)
		}
		if string(ledger.Encode(back)) != string(leaf) {
			t.Fatalf("got %s\nback as %s", leaf, ledger.Encode(back))
		}
	}
}

// Nothing of an entry may change how those before it were encoded: this text is for ever.
func TestTheEncodingOfAnEntryNeverChanges(t *testing.T) {
	e := entry(mrand.New(mrand.NewPCG(0, 0)), 7)
	e.Before, e.After, e.Reason, e.Ticket, e.RequestID = json.RawMessage(`{"a":1}`), json.RawMessage("{ \"b\" :\n 2 }"), "r", "t", "q"
	const want = `{"action":"hosts.label","actor":{"address":"192.0.2.7","id":"key_1","kind":"api_key","name":"Ada <\"\\>\t"},"after":{"b":2},` +
		`"at":"2023-11-14T22:13:20.007000Z","before":{"a":1},"decision":"key_1","id":"aud_00000000000000000000000007","outcome":"done","position":7,` +
		`"reason":"r","requestId":"q","scope":{"organisation":"org_1","workspace":"ws_1"},"target":"hst_1","targetName":"web-1","ticket":"t"}`
	if got := string(ledger.Encode(e)); got != want {
		t.Fatalf("got\n%s, want\n%s", got, want)
	}
}
