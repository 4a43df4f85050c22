package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/ledger"
)

// remembered is what this machine keeps of a deployment's log from one look to the next.
type remembered struct {
	Key        string `json:"key"`
	Checkpoint string `json:"checkpoint"`
}

func (a *app) auditFolder() string { return filepath.Join(a.home(), "audit") }

// memoryOf is the file for the log of this key.
func (a *app) memoryOf(k ledger.Key) (string, error) {
	deployment := strings.TrimSuffix(strings.TrimPrefix(k.Name, "loopback/"), "/audit")
	if !id.Valid("dep", deployment) {
		return "", fault.New(fault.Internal, "audit_key_invalid", "the audit log's key is named %q, after no deployment", k.Name)
	}
	return filepath.Join(a.auditFolder(), deployment+".json"), nil
}

func (a *app) recall(name string) (r remembered, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fault.New(fault.Precondition, "audit_memory_damaged", "what was remembered of the audit log cannot be read").WithCause(err).
			WithHint("look at %s; moved aside, what this machine saw is forgotten", name)
	}
	return r, nil
}

func (a *app) keep(name string, r remembered) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return replace(name, append(b, '\n'))
}

// replace puts a file in place whole, 0600.
func replace(name string, content []byte) error {
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(name, content, 0o600)
}

// trustFlags are what a verifier brings along.
type trustFlags struct {
	key         string
	checkpoints []string
}

func (t *trustFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&t.key, "key", "", "`KEY` of the log, or a file that holds it, from whom you trust")
	c.Flags().StringArrayVar(&t.checkpoints, "checkpoint", nil, "`FILE` with a checkpoint from elsewhere that the log must agree with (repeatable)")
}

func (t *trustFlags) load() (ledger.Trust, error) {
	var out ledger.Trust
	if t.key != "" {
		text := t.key
		if b, err := os.ReadFile(t.key); err == nil {
			text = string(b)
		}
		k, err := ledger.ParseKey(text)
		if err != nil {
			return out, usageError{err: fmt.Errorf("--key is neither a log's key nor a file with one"), hint: "loopback audit checkpoint shows a log's key"}
		}
		out.Key = k
	}
	for _, name := range t.checkpoints {
		b, err := os.ReadFile(name)
		if err != nil {
			return out, usage("the checkpoint cannot be read: %s", err)
		}
		out.Checkpoints = append(out.Checkpoints, string(b))
	}
	return out, nil
}

// accuse tells what is wrong with a log, and keeps the checkpoints that prove it.
func (a *app) accuse(err error) error {
	var f *ledger.Finding
	if !errors.As(err, &f) {
		return err
	}
	var evidence bytes.Buffer
	for _, note := range f.Evidence {
		fmt.Fprintf(&evidence, "%s\n", strings.TrimRight(note, "\n"))
		fmt.Fprintln(&evidence)
	}
	where := fmt.Sprintf("leaf %d, ", f.Leaf)
	if f.Leaf < 0 {
		where = ""
	}
	out := fault.New(fault.Internal, "audit_log_"+strings.ReplaceAll(string(f.Kind), "-", "_"), "the audit log is not what it should be (%s): %s%s", f.Kind, where, f.Message).
		WithHint("keep what you have; docs/guides/audit.md says what this means")
	if evidence.Len() > 0 {
		fmt.Fprint(a.Err, cleanLines(evidence.String()))
		name := filepath.Join(a.auditFolder(), "evidence-"+time.Now().UTC().Format("20060102T150405.000")+".txt")
		if err := replace(name, evidence.Bytes()); err == nil {
			out = out.WithHint("the checkpoints above are kept in %s; docs/guides/audit.md says what this means", name)
		}
	}
	return out
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// checkpoint asks for a log's, and checks that it is signed by whom it says.
func (c *api) checkpoint(ctx context.Context, number int64) (*pb.AuditCheckpoint, ledger.Key, error) {
	l, err := call(ctx, c, c.audit.GetCheckpoint, &pb.GetCheckpointRequest{Log: number})
	if err != nil {
		return nil, ledger.Key{}, err
	}
	k, err := ledger.ParseKey(l.Key)
	if err == nil {
		_, err = k.Open(l.Checkpoint)
	}
	if err != nil {
		return nil, k, fault.New(fault.Internal, "audit_log_unsigned", "the control plane's checkpoint is not signed by the key that it names").WithCause(err)
	}
	return l, k, nil
}

// bundle writes a whole log. What is missing although its time is not over is a finding, and the rest is written all the same.
func (c *api) bundle(ctx context.Context, out io.Writer, l *pb.AuditCheckpoint, told func(done int64)) error {
	var missing *ledger.Finding
	w, err := ledger.NewWriter(out, ledger.Header{Began: l.Began, Checkpoint: l.Checkpoint, Key: l.Key, Previous: l.Previous, Handovers: l.Handovers})
	if err != nil {
		return err
	}
	for next := int64(0); next < l.Size; {
		r, err := call(ctx, c, c.audit.ListLeaves, &pb.ListLeavesRequest{Log: l.Log, Start: next, Limit: int32(min(5000, l.Size-next))})
		if err != nil {
			return err
		}
		if len(r.Items) == 0 {
			break // what is missing is found out when the file is checked
		}
		for _, leaf := range r.Items {
			if len(leaf.Body) > 0 {
				err = w.Add([]byte(leaf.Body))
			} else if len(leaf.Hash) == len(ledger.Hash{}) {
				err = w.AddHash(ledger.Hash(leaf.Hash))
				if position := l.Began + next + 1; leaf.Absent && position > l.Pruned && missing == nil {
					missing = &ledger.Finding{Kind: ledger.Dropped, Leaf: next, Evidence: []string{l.Checkpoint},
						Message: fmt.Sprintf("the entry of position %d is gone, and retention did not delete it; its hash is still there", position)}
				}
			} else {
				err = errors.New("a leaf is neither an entry nor a hash")
			}
			if err != nil {
				return err
			}
			next++
		}
		told(next)
	}
	if err := w.Close(); err != nil || missing == nil {
		return err
	}
	return missing
}

func (a *app) auditCheckpoint() *cobra.Command {
	return &cobra.Command{Use: "checkpoint", Short: "Show the log's last signed checkpoint, to be kept elsewhere",
		Long: `Show the log's last signed checkpoint. Whoever keeps one where the owner of the control plane cannot reach it can show
later that nothing before it was changed: loopback audit verify --checkpoint FILE. The key goes to standard error.`,
		Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			c, _, err := s.checkpoint(ctx, 0)
			if err != nil {
				return err
			}
			if a.flags.output != "table" {
				return a.print(c)
			}
			a.hint("key: %s", c.Key)
			_, err = fmt.Fprint(a.Out, cleanLines(c.Checkpoint))
			return err
		})}
}

func (a *app) auditExport() *cobra.Command {
	return &cobra.Command{Use: "export FILE", Short: "Write the whole log to a file that can be verified without the control plane",
		Long: `Write the whole log to a file: the last signed checkpoint, then each entry as it was hashed, a line each. Entries whose
bodies were deleted or are not yours to read are there as their hashes. loopback audit verify FILE checks it anywhere.`,
		Args: args("FILE"), RunE: a.with(func(ctx context.Context, s *api, words []string) (err error) {
			c, k, err := s.checkpoint(ctx, 0)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(words[0], os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usage("the file cannot be made: %s", err)
			}
			defer func() {
				if err = errors.Join(err, f.Close()); err != nil {
					os.Remove(words[0])
				}
			}()
			var missing *ledger.Finding
			if err := s.bundle(ctx, f, c, a.counted(c.Size)); errors.As(err, &missing) {
				a.hint("%s", missing.Message)
			} else if err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			r, err := ledger.Verify(f, ledger.Trust{Key: k}, nil)
			if err != nil {
				return a.accuse(err)
			}
			return a.verified(r, "", "exported")
		})}
}

// counted tells of progress on a terminal.
func (a *app) counted(of int64) func(int64) {
	return func(done int64) {
		if a.Interactive && done%100_000 < 5000 {
			fmt.Fprintf(a.Err, "\r%d of %d entries", done, of)
			if done == of {
				fmt.Fprintln(a.Err)
			}
		}
	}
}

func (a *app) verified(r ledger.Report, note, what string) error {
	if a.flags.output != "table" {
		b, err := json.Marshal(map[string]any{"origin": r.Checkpoint.Origin, "size": r.Checkpoint.Size, "root": r.Checkpoint.Root[:], "key": r.Key.String(),
			"entries": r.Bodies, "hashes": r.Hashes, "witnessed": r.Witnessed})
		if err != nil {
			return err
		}
		return a.printJSON(b)
	}
	text := fmt.Sprintf("%s %d entries of %s", what, r.Bodies, r.Checkpoint.Origin)
	if r.Hashes > 0 {
		text += fmt.Sprintf(" and %d hashes of entries that are not shown", r.Hashes)
	}
	if note != "" {
		text += "; " + note
	}
	_, err := fmt.Fprintln(a.Out, clean(text))
	return err
}
