package recording

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/test/powercut"
)

func session() string { return id.New("ses", time.Unix(1_700_000_000, 0)) }

// some events, deterministic for a seed.
func some(n int, seed uint64) []Event {
	random := rand.New(rand.NewPCG(seed, seed))
	out := []Event{{Kind: Begin, Data: []byte(`{"session":"s","host":"h","user":"root","who":"w","start":"2026-01-01T00:00:00Z","cols":80,"rows":24,"term":"xterm"}`)}}
	var at time.Duration
	for range n {
		at += time.Duration(random.Int64N(int64(2 * time.Second))).Truncate(time.Microsecond)
		e := Event{At: at, Kind: Output, Data: make([]byte, random.IntN(2000))}
		if random.IntN(20) == 0 {
			e.Data = make([]byte, MaxData)
		}
		for i := range e.Data {
			e.Data[i] = byte(random.Uint32())
		}
		if random.IntN(10) == 0 {
			e.Kind, e.Data = Resize, Size(80+random.IntN(100), 24)
		}
		out = append(out, e)
	}
	return append(out, Event{At: at, Kind: Exit, Data: []byte(`{"status":0}`)})
}

func recordAll(t testing.TB, dir, session string, keys *Keyring, events []Event) Head {
	t.Helper()
	w, err := Create(dir, session, keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	h, err := w.End()
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return h
}

func read(t testing.TB, r *Reader, from int) []Event {
	t.Helper()
	var out []Event
	for e, err := range r.Events(from) {
		if err != nil {
			t.Fatal(err)
		}
		e.Data = bytes.Clone(e.Data)
		out = append(out, e)
	}
	return out
}

func equal(a, b []Event) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].At != b[i].At || a[i].Kind != b[i].Kind || !bytes.Equal(a[i].Data, b[i].Data) {
			return false
		}
	}
	return true
}

// Two who record the same come to the same head, whatever happened to one of them on the way, and read back what was recorded.
func TestTwoRecordersOfTheSameAgree(t *testing.T) {
	secret, s := NewSecret(), session()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		events := some(rapid.IntRange(0, 120).Draw(rt, "events"), rapid.Uint64().Draw(rt, "seed"))
		a, b := filepath.Join(dir, "a", s), filepath.Join(dir, "b", s)
		defer os.RemoveAll(a)
		defer os.RemoveAll(b)
		want := recordAll(t, a, s, NewKeyring(secret), events)

		// The other is killed now and then, with something torn at the end of its file.
		w, err := Create(b, s, NewKeyring(secret))
		if err != nil {
			rt.Fatal(err)
		}
		for i := 0; i < len(events); i++ {
			if err := w.Add(events[i]); err != nil {
				rt.Fatal(err)
			}
			if i%17 != 5 {
				continue
			}
			at := w.Head()
			if err := w.Close(); err != nil {
				rt.Fatal(err)
			}
			f, _ := os.OpenFile(filepath.Join(b, eventsFile), os.O_APPEND|os.O_WRONLY, 0)
			_, _ = f.Write(make([]byte, rapid.IntRange(0, 5000).Draw(rt, "torn")))
			_ = f.Close()
			if w, err = Continue(b, s, NewKeyring(secret)); err != nil {
				rt.Fatal(err)
			}
			if w.Head() != at {
				rt.Fatalf("continued at %+v, left at %+v", w.Head(), at)
			}
		}
		got, err := w.End()
		if err != nil || got != want {
			rt.Fatalf("got %+v, %v; the other recorder has %+v", got, err, want)
		}
		r, err := Open(b, NewKeyring(secret))
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		if err := r.Verify(); err != nil || !equal(read(t, r, 0), events) {
			rt.Fatalf("what is read is not what was recorded: %v", err)
		}
		// Whoever was cut off anywhere shows to have been in step.
		n := rapid.Int64Range(0, got.Events).Draw(rt, "cut")
		c := filepath.Join(dir, "c", s)
		defer os.RemoveAll(c)
		short := recordAll(t, c, s, NewKeyring(secret), events[:n])
		if h, err := r.HeadAt(n); err != nil || h.Root != short.Root || h.Chunks != short.Chunks {
			rt.Fatalf("after %d events: got %+v, %v; want %+v", n, h, err, short)
		}
		at := time.Duration(rapid.Int64Range(0, int64(want.Length)).Draw(rt, "seek"))
		from := r.Seek(at)
		for _, e := range events {
			if e.At >= at { // the first that is wanted lies in the chunk or in one after it
				found := false
				for _, x := range read(t, r, from) {
					found = found || x.At == e.At && x.Kind == e.Kind && bytes.Equal(x.Data, e.Data)
				}
				if !found {
					rt.Fatalf("seeking to %s missed the event at %s", at, e.At)
				}
				break
			}
		}
	})
}

// Every change of a bit, of the order of chunks, every cut and every addition is found, in either file, and by those who hold no
// key as well.
func TestEveryMutationIsFound(t *testing.T) {
	secret, s := NewSecret(), session()
	dir := filepath.Join(t.TempDir(), s)
	want := recordAll(t, dir, s, NewKeyring(secret), some(200, 1))
	good, err := os.ReadFile(filepath.Join(dir, eventsFile))
	if err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(filepath.Join(dir, headFile))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 3))
	check := func(what string) {
		t.Helper()
		r, err := Open(dir, nil)
		if err == nil {
			err = r.Verify()
			if err == nil && r.Head() != want {
				err = ErrTampered // the head is compared with the one that the audit log has
			}
			_ = r.Close()
		}
		if err == nil {
			t.Errorf("%s was not found", what)
		}
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := 2000
	if testing.Short() {
		n = 200
	}
	for range n {
		b := bytes.Clone(good)
		at := random.IntN(len(b))
		switch random.IntN(4) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b = b[:at]
		case 2:
			b = append(b[:at:at], append([]byte{byte(random.Uint32())}, b[at:]...)...)
		case 3:
			b = append(b[:at:at], b[at+1:]...)
		}
		if bytes.Equal(b, good) || at < len(magic) {
			continue
		}
		put(eventsFile, b)
		check("a change of the events")
	}
	put(eventsFile, good)
	for range n {
		b := bytes.Clone(head)
		at := random.IntN(len(b))
		b[at] ^= 1 << random.IntN(8)
		put(headFile, b)
		r, err := Open(dir, NewKeyring(secret))
		if err != nil {
			continue
		}
		// What is left are changes that say the same, and those of an event's number or time in the index, which do not touch
		// what is shown or proved.
		if err := r.Verify(); err == nil && r.Head() == want && !equal(read(t, r, 0), some(200, 1)) {
			t.Errorf("a change of the head at %d was not found: %q", at, b[max(0, at-20):min(len(b), at+20)])
		}
		_ = r.Close()
	}
}

func TestTheFirstChunkThatDiffersIsNamed(t *testing.T) {
	secret, s := NewSecret(), session()
	events := some(300, 4)
	root := t.TempDir()
	leaves := func(name string, events []Event) []ledger.Hash {
		w, err := Create(filepath.Join(root, name, s), s, NewKeyring(secret))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if err := w.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		out := w.Leaves()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	a := leaves("a", events)
	changed := append([]Event(nil), events...)
	for i := range changed {
		if i > 150 && changed[i].Kind == Output && len(changed[i].Data) > 0 {
			changed[i].Data = bytes.Clone(changed[i].Data)
			changed[i].Data[0] ^= 1
			r, err := Open(filepath.Join(root, "a", s), NewKeyring(secret))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			want := 0
			for n, c := range r.Chunks() {
				if c.Event <= int64(i) {
					want = n
				}
			}
			if got, ok := Differ(a, leaves("b", changed)); !ok || got != want {
				t.Errorf("got chunk %d, %v; want %d", got, ok, want)
			}
			break
		}
	}
	if _, ok := Differ(a, a[:3]); ok {
		t.Error("one that is shorter differs")
	}
}

// Whoever follows sees every event once and in order, from wherever they begin, however far behind they are.
func TestATailSeesWhatIsAdded(t *testing.T) {
	secret, s := NewSecret(), session()
	events := some(150, 9)
	w, err := Create(filepath.Join(t.TempDir(), s), s, NewKeyring(secret))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	first, _, err := w.Tail(0)
	if err != nil {
		t.Fatal(err)
	}
	var got []Event
	take := func(t *Tail) (out []Event, err error) {
		for {
			e, ok, err := t.Next()
			if err != nil || !ok {
				return out, err
			}
			e.Data = bytes.Clone(e.Data)
			out = append(out, e)
		}
	}
	var starts []int64
	for i, e := range events {
		starts = append(starts, w.Head().Bytes)
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
		if random.IntN(5) > 0 {
			continue
		}
		more, err := take(first)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
		from := random.IntN(i + 1)
		other, ok, err := w.Tail(starts[from] + int64(random.IntN(3)))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if rest, err := take(other); err != nil || !equal(rest, events[from:i+1]) {
			t.Fatalf("from event %d of %d: %d seen, %v", from, i+1, len(rest), err)
		}
	}
	more, err := take(first)
	if got = append(got, more...); err != nil || !equal(got, events) {
		t.Fatalf("%d of %d events seen, %v", len(got), len(events), err)
	}
	if _, ok, _ := w.Tail(w.Head().Bytes + 1); ok {
		t.Error("past the end there is something")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// A chunk that was shredded is gone for whoever has the files and the keys; all else can be read, and the proof verifies.
func TestShreddingTakesOneChunkAndLeavesTheProof(t *testing.T) {
	secret, s := NewSecret(), session()
	dir := filepath.Join(t.TempDir(), s)
	want := recordAll(t, dir, s, NewKeyring(secret), some(300, 5))
	keys := NewKeyring(secret)
	const gone = 3
	keys.Shred(gone)
	keys, err := ParseKeyring(keys.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if err := Shred(dir, gone); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir, keys)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(); err != nil || r.Head() != want {
		t.Fatalf("the proof does not hold: %v", err)
	}
	chunks := r.Chunks()
	said := false
	for e, err := range r.Events(0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == Marker && strings.Contains(string(e.Data), "shredded") {
			said = true
		}
	}
	if !said {
		t.Error("nothing says that a part is missing")
	}
	b, _ := os.ReadFile(filepath.Join(dir, eventsFile))
	part := b[chunks[gone].Offset : chunks[gone].Offset+chunks[gone].Size]
	if len(bytes.Trim(part, "\x00")) > 0 {
		t.Error("the bytes are still there")
	}
	for i := range int64(len(chunks)) {
		if keys.Holds(i) != (i != gone) {
			t.Errorf("chunk %d: held is %v", i, keys.Holds(i))
		}
	}
}

// Whatever is shredded, in any order: exactly that is gone, and every other key is what it was.
// What was recorded goes, the proof stays, however often it is said and wherever a crash cut it off; also of a recording that nobody ended.
func TestForgettingLeavesTheProof(t *testing.T) {
	for name, ends := range map[string]bool{"ended": true, "cut off": false} {
		t.Run(name, func(t *testing.T) {
			s := session()
			dir := filepath.Join(t.TempDir(), s)
			w, err := Create(dir, s, NewKeyring(NewSecret()))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range some(200, 1) {
				if err := w.Add(e); err != nil {
					t.Fatal(err)
				}
			}
			want := w.Head()
			if ends {
				if _, err := w.End(); err != nil {
					t.Fatal(err)
				}
			}
			leaves := w.Leaves()
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if n, err := Held(dir); err != nil || n == 0 {
				t.Fatalf("there are %d bytes, %v", n, err)
			}
			for range 2 {
				if err := Forget(dir); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := Held(dir); err != nil || n != 0 {
				t.Errorf("%d bytes are left, %v", n, err)
			}
			r, err := Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := r.Verify(); err != nil || !r.Forgotten() || r.Head().Root != want.Root || r.Head().Chunks != want.Chunks {
				t.Errorf("the proof is %+v, %v; want %+v", r.Head(), err, want)
			}
			for i, c := range r.Chunks() {
				if c.Leaf != leaves[i] {
					t.Errorf("leaf %d is another", i)
				}
			}
			if _, err := r.HeadAt(want.Events - 1); !errors.Is(err, ErrShredded) {
				t.Errorf("within a chunk that is gone: %v", err)
			}
			if _, err := Open(dir, NewKeyring(NewSecret())); fault.KindOf(err) != fault.NotFound {
				t.Errorf("reading it: %v", err)
			}
			if err := Shred(dir, 0); !errors.Is(err, ErrShredded) {
				t.Errorf("shredding a chunk of it: %v", err)
			}
			b, _ := os.ReadFile(filepath.Join(dir, headFile))
			if err := os.WriteFile(filepath.Join(dir, headFile), bytes.Replace(b, []byte(`"leaf":[`), []byte(`"leaf":[1`), 1), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, nil); err == nil {
				t.Error("a leaf that was changed is not found")
			}
		})
	}
	if err := Forget(filepath.Join(t.TempDir(), session())); err != nil {
		t.Errorf("where there is nothing: %v", err)
	}
}

// A disk that refuses is told of, and nothing of the recording is lost but by the next time.
func TestForgettingOnADiskThatRefuses(t *testing.T) {
	s := session()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("missing feature: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	dir := filepath.Join(disk, s)
	want := recordAll(t, dir, s, NewKeyring(NewSecret()), some(20, 1))
	readOnly := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	readOnly(unix.MS_RDONLY)
	if err := Forget(dir); !errors.Is(err, unix.EROFS) {
		t.Errorf("got %v", err)
	}
	if n, _ := Held(dir); n == 0 {
		t.Error("it is gone")
	}
	readOnly(0)
	if err := Forget(dir); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(dir, nil); err != nil || r.Head() != want {
		t.Errorf("the proof: %v", err)
	}
}

func TestKeysAgainstATable(t *testing.T) {
	secret := NewSecret()
	whole := NewKeyring(secret)
	rapid.Check(t, func(t *rapid.T) {
		k := NewKeyring(secret)
		gone := map[int64]bool{}
		some := rapid.SampledFrom([]int64{0, 1, 2, 3, 7, 8, 1000, maxChunks - 1})
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			c := some.Draw(t, "shred")
			k.Shred(c)
			gone[c] = true
		}
		k, err := ParseKeyring(k.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			c := some.Draw(t, "ask")
			_, salt, err := k.key(c)
			_, want, _ := whole.key(c)
			if errors.Is(err, ErrShredded) != gone[c] || !gone[c] && salt != want {
				t.Fatalf("chunk %d: gone %v, %v", c, gone[c], err)
			}
		}
	})
}

// After a power cut there is what Sync vouched for, and the recorder goes on from where the disk is.
func TestWhatWasSyncedSurvivesAPowerCut(t *testing.T) {
	secret, s := NewSecret(), session()
	events := some(200, 6)
	want := recordAll(t, filepath.Join(t.TempDir(), s), s, NewKeyring(secret), events)
	random := rand.New(rand.NewPCG(7, 7))
	for range 4 {
		disk := powercut.New(t, filepath.Join(t.TempDir(), "disk"), random)
		dir := filepath.Join(disk.Path, "recordings", s)
		w, err := Create(dir, s, NewKeyring(secret))
		if err != nil {
			t.Fatal(err)
		}
		synced := w.Head()
		for i := 0; i < len(events); i++ {
			if err := w.Add(events[i]); err != nil {
				t.Fatal(err)
			}
			if random.IntN(10) == 0 {
				if synced, err = w.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if random.IntN(60) != 0 {
				continue
			}
			disk.Off()
			_ = w.Close()
			if _, err := disk.On(); err != nil {
				t.Fatal(err)
			}
			if w, err = Continue(dir, s, NewKeyring(secret)); err != nil {
				t.Fatal(err)
			}
			if w.Head().Events < synced.Events {
				t.Fatalf("%d events are left; %d were synced", w.Head().Events, synced.Events)
			}
			i = int(w.Head().Events) - 1 // the host sends again what was not acknowledged
		}
		if got, err := w.End(); err != nil || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

func TestRedactionIsTheSameHoweverOutputIsCut(t *testing.T) {
	secrets := []string{"AKIA" + strings.Repeat("Q", 16), "lbt_" + strings.Repeat("x1", 30), "ghp_" + strings.Repeat("a", 36),
		"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"}
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		for range rapid.IntRange(0, 6).Draw(t, "pieces") {
			text = append(text, rapid.SampledFrom([]string{"hello ", "AKI", "eyJ", "--", "-----BEGIN CERTIFICATE-----\n", "lbt_short ", "\r\n", "e", secrets[0] + " ", secrets[1] + "\n", secrets[2] + "\x1b[0m", secrets[3]}).Draw(t, "piece")...)
		}
		whole := NewRedactor().Add(text, true)
		r := NewRedactor()
		var got []byte
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			got = append(got, r.Add(rest[:n], false)...)
			rest = rest[n:]
		}
		got = append(got, r.Add(nil, true)...)
		if !bytes.Equal(got, whole) {
			t.Fatalf("in pieces %q, at once %q", got, whole)
		}
		for _, s := range secrets {
			if bytes.Contains(got, []byte(s)) {
				t.Fatalf("%q shows %q", got, s)
			}
		}
	})
}

func TestCast(t *testing.T) {
	events := func(yield func(Event, error) bool) {
		for _, e := range []Event{
			{Kind: Begin, Data: []byte(`{"session":"ses_1","host":"db","user":"root","who":"ada","start":"2026-01-01T00:00:00Z","cols":80,"rows":24,"term":"xterm"}`)},
			{At: time.Second, Kind: Output, Data: []byte("a\xc3")}, {At: 2 * time.Second, Kind: Output, Data: []byte("\xa4\xff\"")},
			{At: time.Hour, Kind: Resize, Data: Size(100, 30)}, {At: time.Hour, Kind: Exit, Data: []byte(`{"status":130}`)},
		} {
			if !yield(e, nil) {
				return
			}
		}
	}
	var b strings.Builder
	if err := WriteCast(&b, events, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	want := `{"version":3,"term":{"cols":80,"rows":24,"type":"xterm"},"timestamp":1767225600,"title":"root@db by ada, session ses_1"}
[1.000000, "o", "a"]
[1.000000, "o", "ä` + "\\ufffd" + `\""]
[2.000000, "r", "100x30"]
[0.000000, "x", "130"]
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func FuzzReader(f *testing.F) {
	secret, s := NewSecret(), session()
	dir := filepath.Join(f.TempDir(), s)
	recordAll(f, dir, s, NewKeyring(secret), some(20, 1))
	events, _ := os.ReadFile(filepath.Join(dir, eventsFile))
	head, _ := os.ReadFile(filepath.Join(dir, headFile))
	f.Add(events, head)
	f.Add(events[:len(events)/2], []byte(nil))
	f.Add([]byte(magic), []byte(`{"chunks":1,"index":[{"offset":8,"size":-1}]}`))
	f.Fuzz(func(t *testing.T, events, head []byte) {
		dir := filepath.Join(t.TempDir(), s)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(dir, eventsFile), events, 0o600)
		if len(head) > 0 {
			_ = os.WriteFile(filepath.Join(dir, headFile), head, 0o600)
		}
		for _, keys := range []*Keyring{nil, NewKeyring(secret)} {
			r, err := Open(dir, keys)
			if err != nil {
				continue
			}
			_ = r.Verify()
			for _, err := range r.Events(0) {
				if err != nil {
					break
				}
			}
			_, _ = r.HeadAt(1)
			_ = r.Close()
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"key", 1}, {"flood", MaxData}} {
		b.Run(c.name, func(b *testing.B) {
			s := session()
			w, err := Create(filepath.Join(b.TempDir(), s), s, NewKeyring(NewSecret()))
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, c.size)
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			var at time.Duration
			for b.Loop() {
				at += time.Millisecond
				if err := w.Add(Event{At: at, Kind: Output, Data: data}); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
