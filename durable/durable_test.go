package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/test/powercut"
)

// A value in a folder that was just made is there after every cut, old or new and whole.
func TestWhatWasWrittenIsThereAfterAPowerCut(t *testing.T) {
	disk := powercut.New(t, filepath.Join(t.TempDir(), "disk"), rand.New(rand.NewPCG(3, 4)))
	for round := range 30 {
		path := filepath.Join(disk.Path, fmt.Sprint(round), "a", "b", "file")
		value := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, 9000) }
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if err := durable.WriteFile(path, value(n), 0o600); err != nil {
				t.Fatal(err)
			}
			half := errors.New("the power went")
			err := durable.Write(path, 0o600, func(w io.Writer) error {
				if _, err := w.Write(value(99)[:5000]); err != nil {
					return err
				}
				disk.Off()
				return half
			})
			if !errors.Is(err, half) {
				t.Fatalf("got %v, want what filling it failed with", err)
			}
			if _, err := disk.On(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, value(n)) {
				t.Fatalf("round %d: got %d bytes, %v; want the value that was written", round, len(got), err)
			}
		}
	}
}

func TestAFailureLeavesTheOldFileAndNothingBeside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := durable.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no more")
	if err := durable.Write(path, 0o600, func(io.Writer) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "old" {
		t.Errorf("got %q, %v; want the old file", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got mode %v, %v; want 0640", info.Mode(), err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v; want the one file", all, err)
	}
	if err := durable.MkdirAll(filepath.Join(path, "under"), 0o700); err == nil {
		t.Error("a folder was made under a file")
	}
}
