package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestThePagesAreFresh(t *testing.T) {
	made := t.TempDir()
	if err := os.WriteFile(filepath.Join(made, "gone.md"), nil, 0o644); err != nil { // of a noun that is no more
		t.Fatal(err)
	}
	if err := write(made); err != nil {
		t.Fatal(err)
	}
	read := func(dir string) map[string]string {
		names, err := filepath.Glob(filepath.Join(dir, "*.md"))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Base(name)] = string(b)
		}
		return out
	}
	got, want := read("../cli"), read(made)
	for name, text := range want {
		if got[name] != text {
			t.Errorf("docs/cli/%s is out of date; run: go generate ./docs/gen", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/cli/%s is of a command that is gone; run: go generate ./docs/gen", name)
		}
	}
}
