package audit

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// An auditor who has the folder, and a checkpoint from outside, needs nobody else.
func TestAnAuditorChecksTheEvidenceAlone(t *testing.T) {
	b := start(t)
	b.act(t, 1)
	witness := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(witness, []byte(b.must(t, "loopback", "audit", "checkpoint")), 0o600); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range 60 {
		k, err := b.APIKeys.CreateApiKey(t.Context(), connect.NewRequest(&pb.CreateApiKeyRequest{Name: fmt.Sprint("key-", i), Permissions: []string{"hosts.read"}}))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k.Msg.GetApiKey().GetId())
	}
	for _, k := range keys[:10] {
		if _, err := b.APIKeys.RevokeApiKey(t.Context(), connect.NewRequest(&pb.RevokeApiKeyRequest{ApiKey: k})); err != nil {
			t.Fatal(err)
		}
	}
	robot := b.borrower(t)
	granted := b.asked(t, robot)
	b.must(t, "active", "grant", "approve", granted)
	if code, _, complaint := b.as(t, robot, "group", "create", "team"); code != 0 {
		t.Fatal(complaint)
	}
	var review struct{ ID string }
	if err := json.Unmarshal([]byte(b.must(t, "rvw_", "review", "create", "q3", "--everywhere", "--within", "7d", "-o", "json")), &review); err != nil {
		t.Fatal(err)
	}
	var standing struct {
		Items []struct{ BindingID, SubjectName string }
	}
	if err := json.Unmarshal([]byte(b.must(t, "robot", "review", "bindings", review.ID, "-o", "json")), &standing); err != nil {
		t.Fatal(err)
	}
	for _, i := range standing.Items {
		if i.SubjectName == "robot" {
			b.must(t, "revoked", "review", "revoke", review.ID, i.BindingID, "--rationale", "no longer used")
		}
	}
	b.act(t, 1)
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	b.must(t, "drawn", "audit", "evidence", one, "--seed", "4711")
	b.must(t, "drawn", "audit", "evidence", two, "--seed", "4711")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(one, "key.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b.must(t, "as a checkpoint from elsewhere saw them", "audit", "verify", filepath.Join(one, "log.txt"), "--key", strings.TrimSpace(string(key)), "--checkpoint", witness)

	rows := func(dir, name string) [][]string {
		t.Helper()
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all, err := csv.NewReader(f).ReadAll()
		if err != nil || len(all) == 0 {
			t.Fatal(all, err)
		}
		return all[1:]
	}
	if n := len(rows(one, "population.csv")); n < 70 {
		t.Errorf("the population has %d changes, want at least 70", n)
	}
	given, taken := rows(one, "sample-given.csv"), rows(one, "sample-taken.csv")
	if len(given) != 30 || len(taken) != 11 {
		t.Errorf("%d and %d were drawn, want 30, and all 11 that there are", len(given), len(taken))
	}
	column := func(rows [][]string, dir, name, head string) []string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		at := slices.Index(strings.Split(first, ","), head)
		if at < 0 {
			t.Fatalf("%s has no column %q: %s", name, head, first)
		}
		var out []string
		for _, row := range rows {
			out = append(out, row[at])
		}
		return out
	}
	population := rows(one, "population.csv")
	at := slices.Index(column(population, one, "population.csv", "grant"), granted)
	if at < 0 || population[at][3] != "groups.create" || !strings.Contains(column(population, one, "population.csv", "approvers")[at], "administrator (usr_") ||
		column(population, one, "population.csv", "grant ticket")[at] != "OPS-7" || column(population, one, "population.csv", "grant reason")[at] != "a new team" {
		t.Errorf("what was done by a grant does not name it and its approvers: %v", population)
	}
	loans := rows(one, "grants.csv")
	if len(loans) != 1 || loans[0][0] != granted || column(loans, one, "grants.csv", "state")[0] != "active" || column(loans, one, "grants.csv", "expires")[0] == "" ||
		!strings.Contains(column(loans, one, "grants.csv", "approvers")[0], "administrator") {
		t.Errorf("grants.csv has %v", loans)
	}
	reviewed := rows(one, "reviews.csv")
	at = slices.Index(column(reviewed, one, "reviews.csv", "subject name"), "robot")
	if len(reviewed) != len(standing.Items) || at < 0 || column(reviewed, one, "reviews.csv", "answer")[at] != "revoked" || column(reviewed, one, "reviews.csv", "rationale")[at] != "no longer used" {
		t.Errorf("reviews.csv has %v", reviewed)
	}
	if !slices.EqualFunc(given, rows(two, "sample-given.csv"), slices.Equal) {
		t.Error("the same seed draws another sample")
	}
	for _, row := range append(given, taken...) {
		text, err := os.ReadFile(filepath.Join(one, "proofs", row[1]+".json"))
		var proof struct{ Leaf string }
		if err == nil {
			err = json.Unmarshal(text, &proof)
		}
		if err != nil || !strings.Contains(proof.Leaf, row[1]) {
			t.Errorf("the proof of %s: %v, %s", row[1], err, text)
		}
		if !strings.HasPrefix(row[10], "usr_") && !strings.HasPrefix(row[10], "sa_") && row[10] != "system" {
			t.Errorf("%s was done by %q, want on whose behalf", row[1], row[10])
		}
	}
	for _, row := range given {
		if !slices.Contains([]string{"usr", "key", "bnd", "rol", "grp", "sa"}, strings.SplitN(row[5], "_", 2)[0]) {
			t.Errorf("drawn is %v", row)
		}
	}

	verify := []string{"audit", "verify", one, "--key", strings.TrimSpace(string(key)), "--checkpoint", witness}
	b.must(t, "as a checkpoint from elsewhere saw them", verify...)
	// Whoever alters the folder is found out.
	for name, change := range map[string][2]string{
		"population.csv": {"done", "refused"}, "sample-given.csv": {"create", "update"}, "grants.csv": {"OPS-7", "OPS-8"}, "reviews.csv": {"no longer used", "quite right"},
		"evidence.json": {"4711", "4712"}, filepath.Join("proofs", taken[0][1]+".json"): {taken[0][1], given[0][1]},
	} {
		file := filepath.Join(one, name)
		was, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(was), change[0], change[1], 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if code, out, complaint := b.cli(t, verify...); code != 1 || !strings.Contains(complaint, "what the log gives") && !strings.Contains(complaint, "the proof of") {
			t.Errorf("%s was altered: exit code %d, %s%s", name, code, out, complaint)
		}
		if name == "evidence.json" {
			mine := filepath.Join(t.TempDir(), "mine")
			b.must(t, "drew from", append(verify, "--redraw", mine)...)
			if len(rows(mine, "sample-given.csv")) != 30 || slices.EqualFunc(given, rows(mine, "sample-given.csv"), slices.Equal) {
				t.Error("a seed of one's own does not draw another sample")
			}
		}
		if err := os.WriteFile(file, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(one, "log.txt")
	text, err := os.ReadFile(log)
	if err == nil {
		err = os.WriteFile(log, []byte(strings.Replace(string(text), `"outcome":"done"`, `"outcome":"refused"`, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.finds(t, "altered", "audit", "verify", log, "--key", strings.TrimSpace(string(key)), "--checkpoint", witness)
}
