package sink_test

import (
	"bytes"
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/sink"
	noun "github.com/loopbackd/loopback/sink"
)

func TestASecretIsStoredSealedAndBoundToItsSink(t *testing.T) {
	b := newBench(t, filepath.Join(t.TempDir(), "loopback.db"))
	s, secret := b.create(t, sink.New{Name: "siem", Organisation: "acme", Kind: noun.Webhook, Target: "https://siem.example/in"})
	stored, err := b.db.View().Sink(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) != 24 {
		t.Fatalf("got %q, %v", secret, err)
	}
	if bytes.Contains(stored.Sealed, key) || bytes.Contains(stored.Sealed, []byte(secret)) || len(stored.Sealed) == 0 {
		t.Error("the secret is stored as it is")
	}
	entries, err := b.db.View().EntriesFrom(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(string(e.After), secret) {
			t.Error("the secret is in the audit log")
		}
	}
}

func TestWhatIsWrongWithASinkIsSaid(t *testing.T) {
	b := newBench(t, filepath.Join(t.TempDir(), "loopback.db"))
	for name, n := range map[string]sink.New{
		"kind":   {Name: "x", Kind: "carrier-pigeon", Target: "x"},
		"target": {Name: "x", Kind: noun.Webhook, Target: "ftp://x"},
		"format": {Name: "x", Kind: noun.Webhook, Target: "https://x", Format: "xml"},
		"secret": {Name: "x", Kind: noun.Webhook, Target: "https://x", Secret: "short"},
		"ca":     {Name: "x", Kind: noun.Webhook, Target: "https://x", CA: "nothing"},
		"name":   {Name: "", Kind: noun.File, Target: "x"},
	} {
		_, _, err := b.service.Create(admin, n)
		if f := fault.Of(err); f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0].Field != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, target := range []string{"../x", "a/b", ".hidden", ""} {
		if _, _, err := b.service.Create(admin, sink.New{Name: "x", Kind: noun.File, Target: target}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a file named %q: got %v", target, err)
		}
	}
}
