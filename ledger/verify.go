package ledger

import (
	"errors"
	"fmt"
	"io"

	"github.com/loopbackd/loopback/audit"
)

// Kind of a finding: what became of a log.
type Kind string

// The kinds.
const (
	Malformed  Kind = "malformed"  // it cannot be read as what it claims to be
	OtherKey   Kind = "other-key"  // signed, but by another key than the one that is trusted
	Unsigned   Kind = "unsigned"   // the signature does not fit what is signed
	OtherLog   Kind = "other-log"  // a checkpoint is of another log
	Truncated  Kind = "truncated"  // leaves at the end are missing
	Dropped    Kind = "dropped"    // leaves before others are missing
	Duplicated Kind = "duplicated" // a leaf stands there twice
	Reordered  Kind = "reordered"  // leaves stand in another order
	Appended   Kind = "appended"   // there are leaves that nobody signed for
	Altered    Kind = "altered"    // a leaf is not what it was
	Rewritten  Kind = "rewritten"  // the owner signed another past than an earlier checkpoint saw
	Forked     Kind = "forked"     // two checkpoints of one size were signed over different leaves
)

// Finding is a log that is not what it was, or not what it claims to be.
type Finding struct {
	Kind     Kind
	Leaf     int64 // the first that shows it, from 0; -1 where none can be named
	Message  string
	Evidence []string // signed checkpoints that contradict each other: keep them
}

func (f *Finding) Error() string {
	if f.Leaf >= 0 {
		return fmt.Sprintf("ledger: %s at leaf %d: %s", f.Kind, f.Leaf, f.Message)
	}
	return fmt.Sprintf("ledger: %s: %s", f.Kind, f.Message)
}

func found(kind Kind, evidence []string, format string, args ...any) *Finding {
	return &Finding{Kind: kind, Leaf: -1, Message: fmt.Sprintf(format, args...), Evidence: evidence}
}

// Report is what was proved.
type Report struct {
	Key        Key
	Checkpoint Checkpoint
	Bodies     int64 // leaves whose body was there
	Hashes     int64 // leaves of which only the hash was
	Witnessed  int64 // size of the largest checkpoint from elsewhere that fits: leaves before it are as they were then
}

// Trust is what a verifier brings along.
type Trust struct {
	Key         Key      // of the log; the zero key takes the bundle's word, which proves nothing about its owner
	Checkpoints []string // signed, from elsewhere: a verifier's own memory, another's mail, a sink
}

// Verify checks a bundle. Entry, where it is set, is given every body in order, valid until it returns; what it is given
// is proved only once Verify returns without an error, which is a *Finding where the log is not what it should be.
func Verify(in io.ReadSeeker, t Trust, entry func(leaf []byte) error) (Report, error) {
	r, err := NewReader(in)
	if err != nil {
		return Report{}, found(Malformed, nil, "%v", err)
	}
	report, outside, err := t.open(r.Header)
	if err != nil {
		return report, err
	}
	var tree Range
	seen := map[int64]Hash{}
	wanted := map[int64]bool{}
	for _, c := range outside {
		wanted[c.Size] = true
	}
	var misplaced error
	if wanted[0] {
		seen[0] = Empty
	}
	for {
		leaf, hash, err := r.Next()
		if err == io.EOF {
			break
		}
		var f *Finding
		if errors.Is(err, errCut) {
			break // classified below: leaves are missing
		} else if errors.As(err, &f) {
			return report, classify(in, r.Header, report.Checkpoint, f)
		} else if err != nil {
			return report, fmt.Errorf("reading the bundle: %w", err)
		}
		if leaf == nil {
			tree.AddHash(hash)
			report.Hashes++
		} else {
			// Began is not signed: the first body tells whether it is right.
			if report.Bodies == 0 {
				if e, err := Decode(leaf); err != nil || e.Position != r.Header.Began+1+tree.Size() {
					misplaced = found(Malformed, nil, "the header says that the log began at %d, which its entries do not", r.Header.Began)
				}
			}
			tree.Add(leaf)
			report.Bodies++
			if entry != nil {
				if err := entry(leaf); err != nil {
					return report, err
				}
			}
		}
		if len(wanted) > 0 && wanted[tree.Size()] {
			seen[tree.Size()] = tree.Root()
		}
	}
	c := report.Checkpoint
	if misplaced != nil && tree.Size() == c.Size && tree.Root() == c.Root {
		return report, misplaced
	}
	if tree.Size() != c.Size || tree.Root() != c.Root {
		return report, classify(in, r.Header, c, found(Altered, []string{r.Header.Checkpoint}, "the entries are not those that the checkpoint was signed over"))
	}
	for i, o := range outside {
		if err := o.against(c, seen[o.Size], r.Header.Checkpoint, t.Checkpoints[i]); err != nil {
			return report, err
		}
		report.Witnessed = max(report.Witnessed, o.Size)
	}
	return report, nil
}

// open checks the signatures of a bundle and of the checkpoints that it is held against.
func (t Trust) open(h Header) (Report, []Checkpoint, error) {
	var report Report
	claimed, err := ParseKey(h.Key)
	if err == nil && claimed.String() != h.Key {
		err = errors.New("it is spelt another way")
	}
	if err != nil {
		return report, nil, found(Malformed, nil, "the bundle's key cannot be read: %v", err)
	}
	trusted := t.Key
	if t.Key.Name == "" {
		trusted = claimed
	}
	chain := trusted.Chain(h.Handovers)
	report.Key = chain.Last()
	if claimed.String() != report.Key.String() {
		return report, nil, found(OtherKey, []string{h.Checkpoint}, "the bundle says that it is signed with %s; trusted is %s", claimed, report.Key)
	}
	if len(chain) != len(h.Handovers)+1 {
		return report, nil, found(Unsigned, h.Handovers, "of %d handovers of the log's key, %d lead to and from the one that is trusted", len(h.Handovers), len(chain)-1)
	}
	if report.Checkpoint, err = openNote(report.Key, h.Checkpoint); err != nil {
		return report, nil, err
	}
	if h.Previous != "" {
		if _, err := openNote(chain, h.Previous); err != nil {
			return report, nil, err
		}
	}
	if !Follows(report.Checkpoint.Origin, h.Previous) {
		return report, nil, found(OtherLog, []string{h.Checkpoint, h.Previous}, "the log is not named after the checkpoint that it is said to go on from")
	}
	var outside []Checkpoint
	for _, note := range t.Checkpoints {
		c, err := openNote(chain, note)
		if err != nil {
			return report, nil, err
		}
		if c.Origin != report.Checkpoint.Origin {
			return report, nil, found(OtherLog, []string{note, h.Checkpoint}, "the checkpoint is of log %s, the bundle of %s", c.Origin, report.Checkpoint.Origin)
		}
		outside = append(outside, c)
	}
	return report, outside, nil
}

func openNote(k Opener, note string) (Checkpoint, error) {
	c, err := k.Open(note)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, ErrSignature):
		return c, found(Unsigned, []string{note}, "a checkpoint is not signed by the log's key")
	}
	return c, found(Malformed, []string{note}, "a checkpoint cannot be read: %v", err)
}

// against compares an outside checkpoint with a verified one that holds at least as much; root is that over as many leaves.
func (c Checkpoint) against(whole Checkpoint, root Hash, note, outside string) error {
	evidence := []string{outside, note}
	switch {
	case c.Size > whole.Size:
		return found(Truncated, evidence, "%d leaves are there; a checkpoint from elsewhere was signed over %d", whole.Size, c.Size)
	case c.Root == root:
		return nil
	case c.Size == whole.Size:
		return found(Forked, evidence, "two checkpoints of size %d were signed over different leaves", c.Size)
	}
	return found(Rewritten, evidence, "the first %d leaves are not those that an earlier checkpoint was signed over", c.Size)
}

// Compare holds a new checkpoint against one that is remembered: proof is the consistency proof from the smaller to the
// larger. Both are signed notes that k signed, or one of the keys that the log had.
func Compare(k Opener, remembered, latest string, proof []Hash) error {
	a, err := openNote(k, remembered)
	if err != nil {
		return err
	}
	b, err := openNote(k, latest)
	if err != nil {
		return err
	}
	evidence := []string{remembered, latest}
	switch {
	case a.Origin != b.Origin:
		return found(OtherLog, evidence, "the remembered checkpoint is of log %s, the new one of %s", a.Origin, b.Origin)
	case a.Size > b.Size:
		return found(Truncated, evidence, "the log has %d leaves; it had %d", b.Size, a.Size)
	case a.Size == b.Size && a.Root != b.Root:
		return found(Forked, evidence, "two checkpoints of size %d were signed over different leaves", a.Size)
	case !Extends(a.Size, a.Root, b.Size, b.Root, proof):
		return found(Rewritten, evidence, "the new checkpoint does not add to the remembered one")
	}
	return nil
}

// classify names what became of leaves that do not give the signed root, by the positions in them. It is a judgement for
// people: that something is wrong is proved already.
func classify(in io.ReadSeeker, h Header, c Checkpoint, otherwise *Finding) error {
	otherwise.Evidence = []string{h.Checkpoint}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return otherwise
	}
	r, err := NewReader(in)
	if err != nil {
		return otherwise
	}
	name := func(kind Kind, leaf int64, format string, args ...any) error {
		f := found(kind, otherwise.Evidence, format, args...)
		f.Leaf = leaf
		return f
	}
	held := map[int64]bool{}
	odd, first := int64(-1), int64(0) // the first leaf that is not where it belongs, and its position
	bad := int64(-1)                  // the first that is no entry
	var leaf int64
	for ; ; leaf++ {
		body, _, err := r.Next()
		var f *Finding
		if err != nil && !errors.As(err, &f) {
			break
		}
		var e audit.Entry
		if err == nil && body != nil {
			e, err = Decode(body)
		}
		switch {
		case err != nil && bad < 0:
			bad = leaf
		case err != nil || body == nil:
		case held[e.Position]:
			return name(Duplicated, leaf, "the entry of position %d stands there a second time", e.Position)
		default:
			held[e.Position] = true
			if odd < 0 && e.Position != h.Began+1+leaf {
				odd, first = leaf, e.Position
			}
		}
	}
	switch {
	case bad >= 0:
		return name(Altered, bad, "it is no entry")
	case leaf > c.Size:
		return name(Appended, c.Size, "%d leaves are there; the checkpoint was signed over %d", leaf, c.Size)
	case leaf < c.Size && odd < 0:
		return name(Truncated, leaf, "%d leaves are there; the checkpoint was signed over %d", leaf, c.Size)
	case leaf < c.Size:
		return name(Dropped, odd, "the entry of position %d is missing", h.Began+1+odd)
	case odd >= 0 && held[h.Began+1+odd]:
		return name(Reordered, odd, "the entry of position %d stands where %d belongs", first, h.Began+1+odd)
	case odd >= 0:
		return name(Altered, odd, "it says that its position is %d", first)
	}
	return otherwise
}
