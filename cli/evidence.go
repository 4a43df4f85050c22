package cli

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/ledger"
)

// Bounds of a sample: what auditors draw from a population of changes.
const (
	minSample     = 25
	maxSample     = 40
	defaultSample = 30
)

func (a *app) auditEvidence() *cobra.Command {
	var from, to moment
	var seed int64
	var sample int
	c := &cobra.Command{
		Use: "evidence DIR", Short: "Write a folder for an auditor: who was given what, who lost it, a sample, and proofs",
		Long: `Write a folder for an auditor, which is checked without the control plane: the whole log with its checkpoint, and drawn from it
every change of access in a time (bindings, grants, roles, groups, users, service accounts, API keys) with who made it, when, why, by
which rule and until when it holds; a sample of what was given and of what was taken, drawn by a seed, with a proof of each; and who
holds what now. README.md in it says how to check it.`,
		Example: "  loopback audit evidence q3 --from 2026-07-01T00:00:00Z --to 2026-10-01T00:00:00Z --seed 4711",
		Args:    args("DIR"), RunE: a.with(func(ctx context.Context, s *api, words []string) error {
			e := evidence{app: a, api: s, dir: words[0], to: time.Now(), seed: seed, sample: sample}
			if from.proto() != nil {
				e.from = from.proto().AsTime()
			}
			if to.proto() != nil {
				e.to = to.proto().AsTime()
			}
			switch {
			case sample < minSample || sample > maxSample:
				return usage("--sample is %d; %d to %d are drawn", sample, minSample, maxSample)
			case !e.from.Before(e.to):
				return usage("--from is not before --to")
			}
			if e.seed == 0 {
				e.seed = rand.Int64N(1_000_000_000) + 1
			}
			return e.write(ctx)
		}),
	}
	c.Flags().Var(&from, "from", "changes from then on: a time, or 2160h for so long ago (default: all)")
	c.Flags().Var(&to, "to", "changes until then (default: now)")
	c.Flags().Int64Var(&seed, "seed", 0, "`NUMBER` that the sample is drawn by: the same draws the same (default: one by chance, which is printed)")
	c.Flags().IntVar(&sample, "sample", defaultSample, "draw so many of what was given, and of what was taken: `25` to 40")
	return c
}

// evidence is a folder on its way.
type evidence struct {
	*app
	api      *api
	dir      string
	from, to time.Time
	seed     int64
	sample   int

	report     ledger.Report
	population []audit.Entry
}

// about are the nouns whose changes change who may do what.
var about = []string{"bindings", "grants", "roles", "groups", "users", "service_accounts", "api_keys", "sign_ins"}

// gives and takes tell what an act did to access; neither: it changed something else about it.
func gives(e audit.Entry) bool {
	_, verb, _ := strings.Cut(string(e.Action), ".")
	return e.Outcome == audit.Done && (verb == "create" || verb == "approve" || verb == "grant")
}

func takes(e audit.Entry) bool {
	_, verb, _ := strings.Cut(string(e.Action), ".")
	return e.Outcome == audit.Done && (verb == "delete" || verb == "revoke" || verb == "deny")
}

func (e *evidence) write(ctx context.Context) error {
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return usage("the folder cannot be made: %s", err)
	}
	c, k, err := e.api.checkpoint(ctx, 0)
	if err != nil {
		return err
	}
	if err := e.log(ctx, c, k); err != nil {
		return err
	}
	given := e.draw(gives)
	taken := e.draw(takes)
	for _, w := range []func() error{
		func() error { return e.file("checkpoint.txt", []byte(c.Checkpoint)) },
		func() error { return e.file("key.txt", []byte(k.String()+"\n")) },
		func() error { return e.table("population.csv", e.population) },
		func() error { return e.table("sample-given.csv", given) },
		func() error { return e.table("sample-taken.csv", taken) },
		func() error { return e.proofs(ctx, append(slices.Clone(given), taken...)) },
		func() error { return e.standing(ctx) },
		func() error { return e.file("README.md", []byte(e.readme(c, len(given), len(taken)))) },
	} {
		if err := w(); err != nil {
			return err
		}
	}
	e.hint("seed %d; README.md says how to check the folder", e.seed)
	return e.verified(e.report, fmt.Sprintf("%d changes of access, %d and %d drawn", len(e.population), len(given), len(taken)), "wrote")
}

func (e *evidence) file(name string, content []byte) error {
	return os.WriteFile(filepath.Join(e.dir, name), content, 0o600)
}

// log writes the whole log, checks it, and gathers from what was checked.
func (e *evidence) log(ctx context.Context, c *pb.AuditCheckpoint, k ledger.Key) (err error) {
	f, err := os.OpenFile(filepath.Join(e.dir, "log.txt"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := e.api.bundle(ctx, f, c, e.counted(c.Size)); err != nil {
		return e.accuse(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	e.report, err = ledger.Verify(f, ledger.Trust{Key: k}, func(leaf []byte) error {
		one, err := ledger.Decode(leaf)
		if err != nil {
			return err
		}
		noun, _, _ := strings.Cut(string(one.Action), ".")
		if slices.Contains(about, noun) && !one.At.Before(e.from) && one.At.Before(e.to) && !strings.HasSuffix(string(one.Action), ".use") {
			one.Before, one.After = slices.Clone(one.Before), slices.Clone(one.After)
			e.population = append(e.population, one)
		}
		return nil
	})
	if err != nil {
		return e.accuse(err)
	}
	return nil
}

// draw is a sample in the order of the log. Who has the population and the seed draws the same: the entries that are drawn from,
// in order, shuffled (Fisher-Yates) by PCG with the seed and 0; the first are taken.
func (e *evidence) draw(of func(audit.Entry) bool) []audit.Entry {
	var from []audit.Entry
	for _, one := range e.population {
		if of(one) {
			from = append(from, one)
		}
	}
	r := rand.New(rand.NewPCG(uint64(e.seed), 0))
	r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	from = from[:min(len(from), e.sample)]
	slices.SortFunc(from, func(a, b audit.Entry) int { return cmp.Compare(a.Position, b.Position) })
	return from
}

// table writes entries as spreadsheets read them.
func (e *evidence) table(name string, entries []audit.Entry) (err error) {
	f, err := os.OpenFile(filepath.Join(e.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := csv.NewWriter(f)
	rows := [][]string{{"position", "entry", "time", "action", "outcome", "target", "name", "subject", "role", "expires", "by", "with", "from", "second factor",
		"allowed by", "rules", "reason", "ticket", "scope", "before", "after"}}
	for _, one := range entries {
		var what struct {
			Subject  string    `json:"subject"`
			Role     string    `json:"role"`
			NotAfter time.Time `json:"notAfter"`
		}
		body := one.After
		if len(body) == 0 {
			body = one.Before
		}
		_ = json.Unmarshal(body, &what) // what is no binding has none of it
		rows = append(rows, []string{strconv.FormatInt(one.Position, 10), one.ID, instant(one.At), string(one.Action), string(one.Outcome), one.Target, one.Name,
			what.Subject, what.Role, instant(what.NotAfter), cmp.Or(one.Actor.Principal, one.Actor.ID, string(one.Actor.Kind)), one.Actor.ID, one.Actor.Address,
			instant(one.Actor.MFA), one.Decision, strconv.FormatInt(one.Snapshot, 10), one.Reason, one.Ticket,
			strings.Trim(one.Scope.Organisation+"/"+one.Scope.Project+"/"+one.Scope.Workspace, "/"), string(one.Before), string(one.After)})
	}
	for _, row := range rows {
		for i := range row {
			row[i] = harmless(row[i])
		}
	}
	return w.WriteAll(rows)
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// harmless is text that a spreadsheet takes for text: some of it was chosen by those who are audited.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// proofs writes one for each entry of the sample.
func (e *evidence) proofs(ctx context.Context, entries []audit.Entry) error {
	if err := os.Mkdir(filepath.Join(e.dir, "proofs"), 0o700); err != nil {
		return err
	}
	for _, one := range entries {
		p, err := call(ctx, e.api, e.api.audit.ProveEntry, &pb.ProveEntryRequest{Entry: one.ID})
		if err != nil {
			return err
		}
		b, err := protojson.MarshalOptions{Multiline: true}.Marshal(p)
		if err != nil {
			return err
		}
		if err := e.file(filepath.Join("proofs", one.ID+".json"), append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// standing writes who holds what now.
func (e *evidence) standing(ctx context.Context) error {
	var out []byte
	for q := (&pb.ListBindingsRequest{Page: &pb.Page{Size: 1000}}); ; {
		r, err := call(ctx, e.api, e.api.bindings.ListBindings, q)
		if err != nil {
			return err
		}
		for _, b := range r.Items {
			line, err := protojson.Marshal(b)
			if err != nil {
				return err
			}
			out = append(append(out, line...), '\n')
		}
		if q.Page.Token = r.NextPageToken; q.Page.Token == "" {
			return e.file("standing.jsonl", out)
		}
	}
}

func (e *evidence) readme(c *pb.AuditCheckpoint, given, taken int) string {
	from := "the beginning"
	if !e.from.IsZero() {
		from = instant(e.from)
	}
	text := fmt.Sprintf(`# Evidence of access

Changes of access from %s until %s, drawn from the audit log %s, which had %d entries when its checkpoint was signed
at %s. %d entries are in log.txt with their text, %d as hashes: their text was deleted or was not to be read by who wrote this.

| file | what |
| --- | --- |
| log.txt | the log as it was hashed, a line each |
| checkpoint.txt, key.txt | what was signed over it, and the key |
| population.csv | all %d changes: bindings, grants, roles, groups, users, service accounts, API keys |
| sample-given.csv, sample-taken.csv | %d and %d of them that gave and took access, drawn by the seed %d |
| proofs/ | for each of the sample, that it is in the log |
| standing.jsonl | the bindings at %s |

## How to check it, without the control plane
1. Get the key, and a checkpoint that is older than the question, from somebody who does not run the control plane: a SIEM, a colleague's
   "loopback audit verify", a mail of that time. Without one, only the owner of the key vouches for the past.
2. loopback audit verify log.txt --key KEY --checkpoint CHECKPOINT
   reads every entry. It ends with exit code 0, or says what is not as it was signed.
3. population.csv is what log.txt has on these nouns in this time: look for entries that are in one and not in the other.
4. The sample is drawn again with the same seed: the entries of population.csv whose action gives (create, approve, grant) or takes
   (delete, revoke, deny) and whose outcome is done, in order, shuffled (Fisher-Yates) by PCG-DXSM seeded (%d, 0); the first are taken.
5. A proof in proofs/ is RFC 9162, 2.1.3.2: the leaf's text, its index, and the hashes from the leaf up to the root in its checkpoint.

## What it does not show
That what an entry says is true, nor what was done where no entry is written.
`, from, instant(e.to), c.Checkpoint[:strings.IndexByte(c.Checkpoint+"\n", '\n')], e.report.Checkpoint.Size, stamp(c.SignedAt), e.report.Bodies, e.report.Hashes,
		len(e.population), given, taken, e.seed, instant(time.Now()), e.seed)
	return text
}
