package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/loopbackd/loopback/access"
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
every change of access in a time (bindings, grants, reviews, roles, groups, users, service accounts, API keys) with who made it, when,
why, by which rule, on whose approval and until when it holds; every grant and every reviewed binding, and what became of it; a sample of what was given and of what was taken, drawn by a seed, with a proof of each; and who
holds what now. README.md in it says how to check it.`,
		Example: "  loopback audit evidence q3 --from 2026-07-01T00:00:00Z --to 2026-10-01T00:00:00Z --seed 4711",
		Args:    args("DIR"), RunE: a.with(func(ctx context.Context, s *api, words []string) error {
			e := evidence{app: a, api: s, dir: words[0], drawing: drawing{Format: packFormat, To: time.Now().UTC(), Seed: seed, Sample: sample}}
			if from.proto() != nil {
				e.From = from.proto().AsTime()
			}
			if to.proto() != nil {
				e.To = to.proto().AsTime()
			}
			switch {
			case sample < minSample || sample > maxSample:
				return usage("--sample is %d; %d to %d are drawn", sample, minSample, maxSample)
			case !e.From.Before(e.To):
				return usage("--from is not before --to")
			}
			if e.Seed == 0 {
				e.Seed = rand.Int64N(1_000_000_000) + 1
			}
			return e.write(ctx)
		}),
	}
	c.Flags().Var(&from, "from", "changes from then on: a time, or 90d for so long ago (default: all)")
	c.Flags().Var(&to, "to", "changes until then (default: now)")
	c.Flags().Int64Var(&seed, "seed", 0, "`NUMBER` that the sample is drawn by: the same draws the same (default: one by chance, which is printed)")
	c.Flags().IntVar(&sample, "sample", defaultSample, "draw so many of what was given, and of what was taken: `25` to 40")
	return c
}

// evidence is a folder on its way.
type evidence struct {
	*app
	api *api
	dir string
	drawing
}

// drawing is what a folder was drawn by: with it and the log, everything but what stands now is made anew, byte for byte.
type drawing struct {
	Format string    `json:"format"`
	From   time.Time `json:"from,omitzero"`
	To     time.Time `json:"to"`
	Seed   int64     `json:"seed"`
	Sample int       `json:"sample"`
}

const packFormat = "loopback-evidence/1"

// about are the nouns whose changes change who may do what.
var about = []string{"bindings", "grants", "grant_policies", "access_reviews", "roles", "groups", "users", "service_accounts", "api_keys", "sign_ins"}

// gives and takes tell what an act did to access; neither: it changed something else about it.
func gives(e audit.Entry) bool {
	noun, verb, _ := strings.Cut(string(e.Action), ".")
	switch {
	case e.Outcome != audit.Done || noun == "grant_policies" || noun == "access_reviews":
		return false
	case noun == "grants":
		return said(e, "state") == "active"
	}
	return verb == "create" || verb == "grant"
}

func takes(e audit.Entry) bool {
	noun, verb, _ := strings.Cut(string(e.Action), ".")
	switch {
	case e.Outcome != audit.Done || noun == "grant_policies":
		return false
	case noun == "access_reviews":
		return said(e, "answer") == "revoked" || said(e, "answer") == "expired"
	}
	return verb == "delete" || verb == "revoke" || verb == "deny"
}

// said is a text in what an act made of its target.
func said(e audit.Entry, field string) string {
	var after map[string]any
	_ = json.Unmarshal(e.After, &after) // what is no object says nothing
	text, _ := after[field].(string)
	return text
}

func (e *evidence) write(ctx context.Context) error {
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return usage("the folder cannot be made: %s", err)
	}
	c, k, err := e.api.checkpoint(ctx, 0)
	if err != nil {
		return err
	}
	d, err := e.log(ctx, c, k)
	if err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(e.drawing, "", "  ")
	if err != nil {
		return err
	}
	d.files["evidence.json"], d.files["checkpoint.txt"], d.files["key.txt"] = append(manifest, '\n'), []byte(c.Checkpoint), []byte(k.String()+"\n")
	d.files["README.md"] = []byte(e.readme(c, d))
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if err := e.file(name, d.files[name]); err != nil {
			return err
		}
	}
	if err := e.proofs(ctx, append(slices.Clone(d.given), d.taken...)); err != nil {
		return err
	}
	if err := e.standing(ctx); err != nil {
		return err
	}
	e.hint("seed %d; README.md says how to check the folder", e.Seed)
	return e.verified(d.report, d.String(), "wrote")
}

func (e *evidence) file(name string, content []byte) error {
	return os.WriteFile(filepath.Join(e.dir, name), content, 0o600)
}

// log writes the whole log, checks it, and draws from what was checked.
func (e *evidence) log(ctx context.Context, c *pb.AuditCheckpoint, k ledger.Key) (d drawn, err error) {
	f, err := os.OpenFile(filepath.Join(e.dir, "log.txt"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := e.api.bundle(ctx, f, c, e.counted(c.Size)); err != nil {
		return d, e.accuse(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return d, err
	}
	if d, err = e.draw(f, ledger.Trust{Key: k}); err != nil {
		return d, e.accuse(err)
	}
	return d, nil
}

// drawn is what a log has to say of access.
type drawn struct {
	report       ledger.Report
	population   []audit.Entry
	given, taken []audit.Entry
	grants       int
	reviewed     int               // bindings under reviews
	files        map[string][]byte // tables, by name
}

func (d drawn) String() string {
	return fmt.Sprintf("%d changes of access, %d and %d drawn, %d grants, %d bindings reviewed", len(d.population), len(d.given), len(d.taken), d.grants, d.reviewed)
}

// draw checks a log and draws from it. The same log gives the same.
func (p drawing) draw(log io.ReadSeeker, t ledger.Trust) (d drawn, err error) {
	grants, reviews := grantLives{}, reviewLives{}
	if d.report, err = ledger.Verify(log, t, func(leaf []byte) error {
		one, err := ledger.Decode(leaf)
		if err != nil {
			return err
		}
		noun, _, _ := strings.Cut(string(one.Action), ".")
		if !slices.Contains(about, noun) || !one.At.Before(p.To) || strings.HasSuffix(string(one.Action), ".use") {
			return nil
		}
		one.Before, one.After = slices.Clone(one.Before), slices.Clone(one.After)
		switch noun {
		case "grants":
			grants.note(one)
		case "access_reviews":
			reviews.note(one)
		}
		if !one.At.Before(p.From) {
			d.population = append(d.population, one)
		}
		return nil
	}); err != nil {
		return d, err
	}
	d.given, d.taken = p.sampled(d.population, gives), p.sampled(d.population, takes)
	lives, reviewed := grants.within(p.From), reviews.within(p.From)
	d.grants, d.reviewed, d.files = len(lives), len(reviewed)-1, map[string][]byte{}
	for name, rows := range map[string][][]string{
		"population.csv": changes(d.population), "sample-given.csv": changes(d.given), "sample-taken.csv": changes(d.taken), "grants.csv": grantRows(lives), "reviews.csv": reviewed,
	} {
		if d.files[name], err = spreadsheet(rows); err != nil {
			return d, err
		}
	}
	return d, nil
}

// sampled is a sample in the order of the log. Who has the population and the seed draws the same: the entries that are drawn from,
// in order, shuffled (Fisher-Yates) by PCG with the seed and 0; the first are taken.
func (p drawing) sampled(population []audit.Entry, of func(audit.Entry) bool) []audit.Entry {
	var from []audit.Entry
	for _, one := range population {
		if of(one) {
			from = append(from, one)
		}
	}
	r := rand.New(rand.NewPCG(uint64(p.Seed), 0))
	r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	from = from[:min(len(from), p.Sample)]
	slices.SortFunc(from, func(a, b audit.Entry) int { return cmp.Compare(a.Position, b.Position) })
	return from
}

// spreadsheet writes rows as spreadsheets read them.
func spreadsheet(rows [][]string) ([]byte, error) {
	var out bytes.Buffer
	for _, row := range rows {
		for i := range row {
			row[i] = harmless(row[i])
		}
	}
	err := csv.NewWriter(&out).WriteAll(rows)
	return out.Bytes(), err
}

// changes are entries as rows.
func changes(entries []audit.Entry) [][]string {
	rows := [][]string{{"position", "entry", "time", "action", "outcome", "target", "name", "subject", "role", "expires", "by", "with", "from", "second factor",
		"allowed by", "rules", "reason", "ticket", "method", "grant", "approvers", "grant reason", "grant ticket", "scope", "before", "after"}}
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
		var basis access.Basis
		if one.Basis != nil {
			basis = *one.Basis
		}
		var approvers []string
		for _, a := range basis.Approvers {
			approvers = append(approvers, a.Name+" ("+a.ID+") "+instant(a.At))
		}
		rows = append(rows, []string{strconv.FormatInt(one.Position, 10), one.ID, instant(one.At), string(one.Action), string(one.Outcome), one.Target, one.Name,
			what.Subject, what.Role, instant(what.NotAfter), doer(one), one.Actor.ID, one.Actor.Address,
			instant(one.Actor.MFA), one.Decision, strconv.FormatInt(one.Snapshot, 10), one.Reason, one.Ticket, one.Actor.Method,
			basis.Grant, strings.Join(approvers, "; "), basis.Reason, basis.Ticket, where(one.Scope), string(one.Before), string(one.After)})
	}
	return rows
}

// doer is on whose behalf an act was done.
func doer(e audit.Entry) string {
	return cmp.Or(e.Actor.Principal, e.Actor.ID, string(e.Actor.Kind))
}

func where(s access.Scope) string {
	return strings.Trim(s.Organisation+"/"+s.Project+"/"+s.Workspace, "/")
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

func (e *evidence) readme(c *pb.AuditCheckpoint, d drawn) string {
	from := "the beginning"
	if !e.From.IsZero() {
		from = instant(e.From)
	}
	text := fmt.Sprintf(`# Evidence of access

Changes of access from %s until %s, drawn from the audit log %s, which had %d entries when its checkpoint was signed
at %s. %d entries are in log.txt with their text, %d as hashes: their text was deleted or was not to be read by who wrote this.

| file | what |
| --- | --- |
| log.txt | the log as it was hashed, a line each |
| checkpoint.txt, key.txt | what was signed over it, and the key |
| population.csv | all %d changes: bindings, grants and their policies, reviews, roles, groups, users, service accounts, API keys, sign-ins |
| grants.csv | all %d roles for a while that were asked for, or not over yet, in that time: who, why, ticket, approvers, expiry, how they ended |
| reviews.csv | all %d bindings that were under review in that time: who holds what, since when, by whom made, last use, the answer, by whom and why |
| sample-given.csv, sample-taken.csv | %d and %d changes that gave and took access, drawn by the seed %d |
| proofs/ | for each of the sample, that it is in the log |
| evidence.json | what all of this was drawn by |
| standing.jsonl | the bindings at %s, as the control plane had them: the one file here that does not follow from the log |

## How to check it, without the control plane
1. Get the key, and a checkpoint that is older than the question, from somebody who does not run the control plane: a SIEM, a colleague's
   "loopback audit verify", a mail of that time. Without one, only the owner of the key vouches for the past.
2. loopback audit verify FOLDER --key KEY --checkpoint CHECKPOINT
   reads every entry, draws population, grants, reviews and samples anew by evidence.json, compares them with the files byte by byte, and checks
   each proof. It ends with exit code 0, or says what is not as it was signed or drawn.
3. To draw with a seed of your own: put it into evidence.json, and the same command writes what it draws with --redraw NEW-FOLDER.
4. By hand: of population.csv, with outcome done, what gives is create, but of grants that with which they became active, and of policies
   and reviews nothing; what takes is delete, revoke, deny, and of reviews the answers revoked and expired. Each in order, shuffled
   (Fisher-Yates) by PCG-DXSM seeded (%d, 0); the first %d are taken.
5. A proof in proofs/ is RFC 9162, 2.1.3.2: the leaf's text, its index, and the hashes from the leaf up to the root in its checkpoint.

## What it does not show
That what an entry says is true, nor what was done where no entry is written.
`, from, instant(e.To), c.Checkpoint[:strings.IndexByte(c.Checkpoint+"\n", '\n')], d.report.Checkpoint.Size, stamp(c.SignedAt), d.report.Bodies, d.report.Hashes,
		len(d.population), d.grants, d.reviewed, len(d.given), len(d.taken), e.Seed, instant(time.Now()), e.Seed, e.Sample)
	return text
}
