// Package witness is what hosts remember of the audit log, and how they judge what follows.
//
// A few hosts of each workspace hold the last checkpoint that they accepted. Their control plane sends the next as a section like
// any other, with the proof that the log only grew in between; a host that holds one accepts nothing else. What such a host
// remembers can be read on it by whoever is root there, without the control plane's doing: a log that was rewritten since, by
// its owner too, does not agree with it.
//
// What it is good for ends where the control plane chooses whom to tell: it can leave hosts out, or show a past that it made up
// to those that never saw another. Hosts are witnesses beside those whom nobody here controls, not in their place.
package witness

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/section"
)

// SectionName is that of the section, and of the module that a host needs for it.
const SectionName = "witness"

// Each is how many hosts of a workspace remember: those with the module whose ids have the smallest SHA-256. So the choice is
// the same on every replica, changes little when hosts come and go, and cannot be wished for.
const Each = 3

// Step is one checkpoint, with the proof that it adds to the one before.
type Step struct {
	Key        string // of the log
	Checkpoint string // signed
	Base       int64  // size of the checkpoint that the proof begins at; 0: there is no proof
	Proof      []ledger.Hash
	Previous   string   // last checkpoint of the log before, where this one went on after a restored backup
	Handovers  []string // by which the log's keys gave way to each other
}

// Stored is the step that a host is to take, or took last.
type Stored struct {
	HostID   string
	Scope    access.Scope
	Log      int64 // its number: the deployment's epoch
	Size     int64
	Revision int64 // place in the change feed
	Step
}

const (
	keyItem        = "key"
	checkpointItem = "checkpoint"
	baseItem       = "base"
	proofItem      = "proof"
	previousItem   = "previous"
	handoverItem   = "handover/" // and a number
)

// Section is the step as a section.
func (s Step) Section(r section.Revision) (section.Section, error) {
	items := []section.Item{{Key: keyItem, Value: []byte(s.Key)}, {Key: checkpointItem, Value: []byte(s.Checkpoint)}}
	if s.Base > 0 {
		var proof []byte
		for _, h := range s.Proof {
			proof = append(proof, h[:]...)
		}
		items = append(items, section.Item{Key: baseItem, Value: strconv.AppendInt(nil, s.Base, 10)}, section.Item{Key: proofItem, Value: proof})
	}
	if s.Previous != "" {
		items = append(items, section.Item{Key: previousItem, Value: []byte(s.Previous)})
	}
	for i, note := range s.Handovers {
		items = append(items, section.Item{Key: fmt.Sprintf("%s%06d", handoverItem, i), Value: []byte(note)})
	}
	return section.New(SectionName, r, items)
}

// FromSection reads a step.
func FromSection(s section.Section) (Step, error) {
	var out Step
	for _, it := range s.Items {
		switch it.Key {
		case keyItem:
			out.Key = string(it.Value)
		case checkpointItem:
			out.Checkpoint = string(it.Value)
		case previousItem:
			out.Previous = string(it.Value)
		case baseItem:
			n, err := strconv.ParseInt(string(it.Value), 10, 64)
			if err != nil || n < 1 {
				return Step{}, malformed("its base is not a size")
			}
			out.Base = n
		case proofItem:
			const size = len(ledger.Hash{})
			if len(it.Value)%size != 0 || len(it.Value) > 128*size {
				return Step{}, malformed("its proof is no list of hashes")
			}
			for rest := it.Value; len(rest) > 0; rest = rest[size:] {
				out.Proof = append(out.Proof, ledger.Hash(rest))
			}
		default: // what a later control plane adds is passed over
			if strings.HasPrefix(it.Key, handoverItem) {
				out.Handovers = append(out.Handovers, string(it.Value))
			}
		}
	}
	if out.Key == "" || out.Checkpoint == "" {
		return Step{}, malformed("it has no key or no checkpoint")
	}
	return out, nil
}

func malformed(what string) error {
	return fault.New(fault.Invalid, "audit_witness_malformed", "the checkpoint that was sent cannot be read: %s", what)
}

// Memory is what a host remembers.
type Memory struct {
	Key        string `json:"key"`
	Checkpoint string `json:"checkpoint"`
}

// baseMessage is how a host says that it remembers another checkpoint than it is thought to: an older state of it was put back.
const baseMessage = "the proof begins at %d entries, and this host remembers %d"

// Remembers is the size that a host says it remembers where a proof began elsewhere.
func Remembers(message string) (size int64, ok bool) {
	var base int64
	n, err := fmt.Sscanf(message, "audit_witness_base: "+baseMessage, &base, &size)
	return size, err == nil && n == 2 && size > 0
}

// Judge holds a step against what is remembered, nothing where Checkpoint is empty, and gives what is remembered from then on. lost
// says what of the remembered log is not in the one that goes on after it: that happens when a backup is restored. The error has a
// stable code, and where two signed checkpoints contradict each other it is caused by a *ledger.Finding with both.
func Judge(known Memory, s Step) (next Memory, lost string, err error) {
	latestKey, err := ledger.ParseKey(s.Key)
	if err != nil {
		return known, "", malformed("its key is none")
	}
	k := latestKey.Chain(s.Handovers)
	latest, err := latestKey.Open(s.Checkpoint)
	if err != nil {
		return known, "", refused("audit_log_unsigned", "the checkpoint is not signed by the key that it names", err)
	}
	next = Memory{Key: s.Key, Checkpoint: s.Checkpoint}
	if known.Checkpoint == "" {
		return next, "", nil
	}
	if held, err := ledger.ParseKey(known.Key); err != nil || held.Chain(s.Handovers).Last().String() != s.Key {
		return known, "", refused("audit_log_other_key", "the log is signed by another key than the one that this host remembers",
			&ledger.Finding{Kind: ledger.OtherKey, Leaf: -1, Evidence: []string{known.Checkpoint, s.Checkpoint}})
	}
	held, err := k.Open(known.Checkpoint)
	if err != nil {
		return known, "", refused("audit_memory_damaged", "what this host remembers of the audit log cannot be read", err)
	}
	if held.Origin != latest.Origin {
		return after(k, known, held, next, latest, s)
	}
	if s.Base != held.Size && held.Size < latest.Size {
		return known, "", refused("audit_witness_base", fmt.Sprintf(baseMessage, s.Base, held.Size), nil)
	}
	proof := s.Proof
	if held.Size == latest.Size {
		proof = nil // the same once more
	}
	if err := ledger.Compare(k, known.Checkpoint, s.Checkpoint, proof); err != nil {
		return known, "", inconsistent(err)
	}
	return next, "", nil
}

// after judges the first step of a log that goes on after the one that is remembered.
func after(k ledger.Opener, known Memory, held ledger.Checkpoint, next Memory, latest ledger.Checkpoint, s Step) (Memory, string, error) {
	if !ledger.Follows(latest.Origin, s.Previous) || s.Previous == "" {
		return known, "", refused("audit_log_other_log", fmt.Sprintf("the checkpoint is of another log (%s) than the one that this host remembers (%s), and does not go on from it", latest.Origin, held.Origin),
			&ledger.Finding{Kind: ledger.OtherLog, Leaf: -1, Evidence: []string{known.Checkpoint, s.Checkpoint}})
	}
	end, err := k.Open(s.Previous)
	if err != nil {
		return known, "", refused("audit_log_unsigned", "the last checkpoint of the log before is not signed by its key", err)
	}
	if end.Origin == held.Origin && (end.Size == held.Size || end.Size > held.Size && s.Base == held.Size) {
		proof := s.Proof
		if end.Size == held.Size {
			proof = nil
		}
		if err := ledger.Compare(k, known.Checkpoint, s.Previous, proof); err != nil {
			return known, "", inconsistent(err)
		}
		return next, "", nil
	}
	return next, fmt.Sprintf("a backup was restored: this host remembers %d entries of %s, and the log that goes on knows %d of %s", held.Size, held.Origin, end.Size, end.Origin), nil
}

func refused(code, message string, cause error) error {
	f := fault.New(fault.Conflict, code, "%s", message).WithHint("keep what this host remembers, and look at docs/guides/audit.md")
	if cause != nil {
		f = f.WithCause(cause)
	}
	return f
}

func inconsistent(err error) error {
	var f *ledger.Finding
	if errors.As(err, &f) {
		return refused("audit_log_"+string(f.Kind), f.Message, f)
	}
	return refused("audit_log_inconsistent", err.Error(), err)
}

// Evidence are the signed checkpoints that contradict each other in a refusal; nothing where there are none.
func Evidence(err error) []byte {
	var f *ledger.Finding
	if !errors.As(err, &f) || len(f.Evidence) < 2 {
		return nil
	}
	var out bytes.Buffer
	for _, note := range f.Evidence {
		fmt.Fprintf(&out, "%s\n", note)
	}
	return out.Bytes()
}
