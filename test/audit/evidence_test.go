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
	if len(given) != 30 || len(taken) != 10 {
		t.Errorf("%d and %d were drawn, want 30, and all 10 that there are", len(given), len(taken))
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
		if !strings.HasPrefix(row[10], "usr_") && row[10] != "system" {
			t.Errorf("%s was done by %q, want on whose behalf", row[1], row[10])
		}
	}
	for _, row := range given {
		if !slices.Contains([]string{"usr", "key", "bnd", "rol", "grp", "sa"}, strings.SplitN(row[5], "_", 2)[0]) {
			t.Errorf("drawn is %v", row)
		}
	}

	// Whoever alters the folder is found out.
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
