package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// verifyEvidence checks a folder that audit evidence wrote, with nothing but what the verifier brings along: what was drawn from the
// log is drawn again.
func (a *app) verifyEvidence(dir string, t ledger.Trust, redraw string) error {
	var p drawing
	text, err := os.ReadFile(filepath.Join(dir, "evidence.json"))
	if err != nil {
		return usage("it is no folder that loopback audit evidence wrote: %s", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil || p.Format != packFormat || p.Sample < minSample || p.Sample > maxSample {
		return altered("evidence.json is not what this program writes: a %s, with a sample of %d to %d", packFormat, minSample, maxSample)
	}
	log, err := os.Open(filepath.Join(dir, "log.txt"))
	if err != nil {
		return usage("the log cannot be read: %s", err)
	}
	defer log.Close()
	d, err := p.draw(log, t)
	if err != nil {
		return a.accuse(err)
	}
	if redraw != "" {
		if err := os.Mkdir(redraw, 0o700); err != nil {
			return usage("the folder cannot be made: %s", err)
		}
		for name, content := range d.files {
			if err := os.WriteFile(filepath.Join(redraw, name), content, 0o600); err != nil {
				return err
			}
		}
		return a.verified(d.report, d.String(), "drew from")
	}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		held, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return altered("%s is missing", name)
		}
		if !bytes.Equal(held, d.files[name]) {
			return altered("%s is not what the log gives by evidence.json, from line %d on", name, differs(held, d.files[name]))
		}
	}
	for _, one := range append(slices.Clone(d.given), d.taken...) {
		if err := proven(filepath.Join(dir, "proofs", one.ID+".json"), one, d.report.Key); err != nil {
			return err
		}
	}
	switch {
	case t.Key.Name == "":
		a.hint("the key is the folder's own; whoever wrote the folder could have made it: give --key")
	case len(t.Checkpoints) == 0:
		a.hint("the folder agrees with itself; that the owner of the key did not write another past shows only a checkpoint from elsewhere: give --checkpoint")
	}
	return a.verified(d.report, fmt.Sprintf("%s; the first %d entries are as a checkpoint from elsewhere saw them", d, d.report.Witnessed), "verified")
}

func altered(format string, args ...any) error {
	return fault.New(fault.Internal, "evidence_altered", format, args...).WithHint("keep what you have; ask for the folder again, and compare")
}

// differs is the first line at which two texts part.
func differs(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return 1 + bytes.Count(a[:n], []byte{'\n'})
}

// proven checks the proof that an entry of the sample is in the log.
func proven(name string, e audit.Entry, k ledger.Key) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return altered("the proof of %s is missing", e.ID)
	}
	var p pb.ProveEntryResponse
	if err := protojson.Unmarshal(text, &p); err != nil {
		return altered("the proof of %s cannot be read", e.ID)
	}
	c, err := k.Open(p.GetCheckpoint().GetCheckpoint())
	if err != nil {
		return altered("the proof of %s has a checkpoint that is not signed by %s", e.ID, k.Name)
	}
	hashes, err := hashesOf(p.Hashes)
	if err != nil || !strings.Contains(p.Leaf, e.ID) || !ledger.Includes(ledger.LeafHash([]byte(p.Leaf)), p.Index, c.Size, c.Root, hashes) {
		return altered("the proof of %s does not prove it", e.ID)
	}
	return nil
}
