package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

func (a *app) auditVerify() *cobra.Command {
	var trust trustFlags
	var quick, restored bool
	var redraw string
	c := &cobra.Command{Use: "verify [FILE|FOLDER|ENTRY]", Short: "Prove that the log only grew and that its entries are those that were signed",
		Long: `Prove that the log is what it was.

Without a word, against the control plane: its last checkpoint must agree with the one that this machine remembers from the
last time, and with those given by --checkpoint; every entry is read and hashed. What does not agree is refused, and the
checkpoints that contradict each other are printed and kept. The first time, the key is taken as it comes unless --key says
what it must be.

With a FILE that loopback audit export wrote, without the control plane: the key and a checkpoint from elsewhere are all that
is needed. So with a FOLDER that loopback audit evidence wrote: what was drawn from the log is drawn again, and compared. With the id
of an ENTRY, only that entry's proof is checked.`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) > 1 {
				return usage("%q is one word too many", words[1])
			}
			return nil
		},
		RunE: func(c *cobra.Command, words []string) error {
			t, err := trust.load()
			if err != nil {
				return err
			}
			if len(words) == 1 && !strings.HasPrefix(words[0], "aud_") {
				if at, err := os.Stat(words[0]); err == nil && at.IsDir() {
					return a.verifyEvidence(words[0], t, redraw)
				}
				if redraw != "" {
					return usage("--redraw is for a folder that loopback audit evidence wrote")
				}
				return a.verifyFile(words[0], t)
			}
			if redraw != "" {
				return usage("--redraw is for a folder that loopback audit evidence wrote")
			}
			s, err := a.dial()
			if err != nil {
				return err
			}
			if len(words) == 1 {
				return a.verifyEntry(c.Context(), s, words[0], t)
			}
			return a.verifyLog(c.Context(), s, t, quick, restored)
		}}
	trust.register(c)
	c.Flags().StringVar(&redraw, "redraw", "", "of a folder of evidence: only write what evidence.json draws from its log into this new `FOLDER`")
	c.Flags().BoolVar(&quick, "quick", false, "only prove that the log grew from what is remembered; read no entries")
	c.Flags().BoolVar(&restored, "accept-restore", false, "go on with a log that began when a backup was restored, although entries after the backup are lost")
	return c
}

func (a *app) verifyFile(name string, t ledger.Trust) error {
	f, err := os.Open(name)
	if err != nil {
		return usage("the file cannot be read: %s", err)
	}
	defer f.Close()
	r, err := ledger.Verify(f, t, nil)
	if err != nil {
		return a.accuse(err)
	}
	switch {
	case t.Key.Name == "":
		a.hint("the key is the file's own; whoever wrote the file could have made it: give --key")
	case len(t.Checkpoints) == 0:
		a.hint("the file agrees with itself; that the owner of the key did not write another past shows only a checkpoint from elsewhere: give --checkpoint")
	}
	return a.verified(r, fmt.Sprintf("the first %d are as a checkpoint from elsewhere saw them", r.Witnessed), "verified")
}

// trusted is the key that checkpoints are checked with, and what is remembered. first is set where nothing was.
func (a *app) trusted(k ledger.Key, handovers []string, t ledger.Trust) (memory remembered, name string, first bool, err error) {
	if name, err = a.memoryOf(k); err != nil {
		return memory, name, false, err
	}
	if memory, err = a.recall(name); err != nil {
		return memory, name, false, err
	}
	for _, want := range []string{keyText(t.Key), memory.Key} {
		if want == "" {
			continue
		}
		if held, err := ledger.ParseKey(want); err != nil || held.Chain(handovers).Last().String() != k.String() {
			return memory, name, false, a.accuse(&ledger.Finding{Kind: ledger.OtherKey, Leaf: -1,
				Message: fmt.Sprintf("the control plane signs with %s; trusted is %s", k, want), Evidence: []string{memory.Checkpoint}})
		}
	}
	return memory, name, memory.Key == "", nil
}

func keyText(k ledger.Key) string {
	if k.Name == "" {
		return ""
	}
	return k.String()
}

func (a *app) verifyEntry(ctx context.Context, s *api, entry string, t ledger.Trust) error {
	r, err := call(ctx, s, s.audit.ProveEntry, &pb.ProveEntryRequest{Entry: entry})
	if err != nil {
		return err
	}
	k, err := ledger.ParseKey(r.GetCheckpoint().GetKey())
	if err != nil {
		return fault.New(fault.Internal, "audit_proof_invalid", "the control plane names no key").WithCause(err)
	}
	if _, _, _, err := a.trusted(k, r.Checkpoint.Handovers, t); err != nil {
		return err
	}
	note := r.Checkpoint.Checkpoint
	c, err := k.Open(note)
	if err != nil {
		return a.accuse(&ledger.Finding{Kind: ledger.Unsigned, Leaf: -1, Message: "the checkpoint is not signed by the log's key", Evidence: []string{note}})
	}
	hashes, err := hashesOf(r.Hashes)
	if err != nil {
		return err
	}
	e, err := ledger.Decode([]byte(r.Leaf))
	if err != nil || e.ID != entry || !ledger.Includes(ledger.LeafHash([]byte(r.Leaf)), r.Index, c.Size, c.Root, hashes) {
		return a.accuse(&ledger.Finding{Kind: ledger.Altered, Leaf: r.Index, Message: "the entry is not the one that the checkpoint was signed over", Evidence: []string{note}})
	}
	if err := a.agree(ctx, s, r.Checkpoint, k.Chain(r.Checkpoint.Handovers), t, false); err != nil {
		return err
	}
	return a.verified(ledger.Report{Key: k, Checkpoint: c, Bodies: 1}, fmt.Sprintf("it is leaf %d of %d", r.Index, c.Size), "verified")
}

func (a *app) verifyLog(ctx context.Context, s *api, t ledger.Trust, quick, restored bool) error {
	c, k, err := s.checkpoint(ctx, 0)
	if err != nil {
		return err
	}
	memory, name, firstTime, err := a.trusted(k, c.Handovers, t)
	if err != nil {
		return err
	}
	if memory.Key != "" && memory.Key != k.String() {
		a.hint("the log's key was rotated since: the one that this machine remembered signed for %s", k)
	}
	if firstTime && t.Key.Name == "" {
		a.hint("the key of the log is seen for the first time: %s", k)
	}
	t.Key = k
	if memory.Checkpoint != "" {
		t.Checkpoints = append(t.Checkpoints, memory.Checkpoint)
	}
	chain := k.Chain(c.Handovers)
	if err := a.agree(ctx, s, c, chain, t, restored); err != nil {
		return err
	}
	checkpoint, err := k.Open(c.Checkpoint)
	if err != nil {
		return err
	}
	report := ledger.Report{Key: k, Checkpoint: checkpoint}
	note := "nothing was remembered; it is from now on"
	for _, outside := range t.Checkpoints {
		if o, err := chain.Open(outside); err == nil && o.Origin == checkpoint.Origin {
			report.Witnessed = max(report.Witnessed, o.Size)
			note = fmt.Sprintf("it adds to what was remembered of its first %d", report.Witnessed)
		}
	}
	what := "verified the growth of"
	if !quick {
		what = "verified"
		if report, err = a.verifyAll(ctx, s, c, k, report.Witnessed); err != nil {
			return err
		}
	} else {
		report.Hashes = checkpoint.Size
	}
	if err := a.keep(name, remembered{Key: k.String(), Checkpoint: c.Checkpoint}); err != nil {
		return fmt.Errorf("remembering the checkpoint: %w", err)
	}
	return a.verified(report, note, what)
}

// verifyAll reads every entry and checks that they give the signed root.
func (a *app) verifyAll(ctx context.Context, s *api, c *pb.AuditCheckpoint, k ledger.Key, witnessed int64) (ledger.Report, error) {
	f, err := os.CreateTemp("", "loopback-audit-*")
	if err != nil {
		return ledger.Report{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.bundle(ctx, f, c, a.counted(c.Size)); err != nil {
		return ledger.Report{}, a.accuse(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return ledger.Report{}, err
	}
	r, err := ledger.Verify(f, ledger.Trust{Key: k}, nil)
	r.Witnessed = witnessed
	return r, a.accuse(err)
}

// agree holds a log's checkpoint against those that are known: each must be one that it adds to, or one of a log before it.
func (a *app) agree(ctx context.Context, s *api, c *pb.AuditCheckpoint, k ledger.Opener, t ledger.Trust, restored bool) error {
	for _, outside := range t.Checkpoints {
		if err := a.agreeWith(ctx, s, c, k, outside, restored); err != nil {
			return a.accuse(err)
		}
	}
	return nil
}

func (a *app) agreeWith(ctx context.Context, s *api, c *pb.AuditCheckpoint, k ledger.Opener, outside string, restored bool) error {
	o, err := k.Open(outside)
	if err != nil {
		return &ledger.Finding{Kind: ledger.Unsigned, Leaf: -1, Message: "a checkpoint from elsewhere is not signed by the log's key", Evidence: []string{outside}}
	}
	latest, log, previous := c.Checkpoint, c.Log, c.Previous
	for {
		l, err := k.Open(latest)
		if err != nil {
			return &ledger.Finding{Kind: ledger.Unsigned, Leaf: -1, Message: "a checkpoint is not signed by the log's key", Evidence: []string{latest}}
		}
		if !ledger.Follows(l.Origin, previous) && l.Origin != o.Origin {
			return &ledger.Finding{Kind: ledger.OtherLog, Leaf: -1, Message: "the log does not go on from one that was known", Evidence: []string{outside, latest}}
		}
		if l.Origin == o.Origin {
			if o.Size > l.Size && log != c.Log {
				lost := fault.New(fault.Precondition, "audit_log_restored", "a backup was restored: %d entries that were signed before are lost", o.Size-l.Size).
					WithHint("compare with who remembers them (sinks, exports), then go on with --accept-restore")
				if restored {
					a.hint("%s", lost.Message)
					return nil // there is no proof to be had of what is lost
				}
				return lost
			}
			if o.Size > l.Size {
				return ledger.Compare(k, outside, latest, nil) // says that it is shorter
			}
			return s.grew(ctx, k, log, outside, latest)
		}
		// The log before this one, as this one names it.
		latest = previous
		for log--; ; log-- {
			if log < 1 {
				return &ledger.Finding{Kind: ledger.OtherLog, Leaf: -1, Message: "the checkpoint is of a log that the control plane does not know", Evidence: []string{outside, c.Checkpoint}}
			}
			before, err := call(ctx, s, s.audit.GetCheckpoint, &pb.GetCheckpointRequest{Log: log})
			if fault.KindOf(err) == fault.NotFound {
				continue
			}
			if err != nil {
				return err
			}
			previous = before.Previous
			break
		}
	}
}

// grew asks for the proof between two checkpoints of a log and checks it.
func (c *api) grew(ctx context.Context, k ledger.Opener, log int64, from, to string) error {
	a, err := k.Open(from)
	if err != nil {
		return err
	}
	b, err := k.Open(to)
	if err != nil {
		return err
	}
	r, err := call(ctx, c, c.audit.ProveConsistency, &pb.ProveConsistencyRequest{Log: log, From: a.Size, To: b.Size})
	if err != nil {
		return err
	}
	hashes, err := hashesOf(r.Hashes)
	if err != nil {
		return err
	}
	return ledger.Compare(k, from, to, hashes)
}

func hashesOf(in [][]byte) ([]ledger.Hash, error) {
	out := make([]ledger.Hash, len(in))
	for i, b := range in {
		if len(b) != len(out[i]) {
			return nil, fault.New(fault.Internal, "audit_proof_invalid", "the control plane's proof is malformed")
		}
		out[i] = ledger.Hash(b)
	}
	return out, nil
}
