package cli_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/release"
)

// small is a small Go program for Linux.
func small(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/agent\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", "agent", ".")
	c.Dir, c.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// dist is a folder as `make agents` leaves it, with a small program in the agent's place.
func dist(t *testing.T) (dir, root string) {
	t.Helper()
	program := small(t)
	dir = t.TempDir()
	at := filepath.Join(dir, "linux-"+runtime.GOARCH)
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(t.TempDir(), "root.json")
	for path, b := range map[string][]byte{filepath.Join(at, "loopback-agent"): program, root: []byte(`{"signed":{}}`)} {
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir, root
}

func TestPackageMakesTheSameFilesTwice(t *testing.T) {
	x := &terminal{t: t, env: map[string]string{"HOME": t.TempDir(), "SOURCE_DATE_EPOCH": "1700000000"}}
	dir, root := dist(t)
	type made struct {
		Items []struct{ File, Format, SHA256 string }
	}
	var first, second made
	for _, to := range []*made{&first, &second} {
		if err := json.Unmarshal([]byte(x.ok("release", "package", "--version", "1.2.3", "--root", root, "-o", "json", dir)), to); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.Items) != 3 {
		t.Fatalf("got %+v, wanted deb, rpm and a list of parts", first)
	}
	for i, f := range first.Items {
		if second.Items[i] != f {
			t.Errorf("got %+v, then %+v, wanted the same", f, second.Items[i])
		}
		if want := release.FileName(release.Agent, "1.2.3", runtime.GOARCH, f.Format); filepath.Base(f.File) != want {
			t.Errorf("got %s, wanted it called %s", f.File, want)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "linux-"+runtime.GOARCH)); err != nil || len(entries) != 4 {
		t.Errorf("the folder holds %v, %v, wanted the program and three files", entries, err)
	}
	x.env["SOURCE_DATE_EPOCH"] = "1700000001"
	var third made
	if err := json.Unmarshal([]byte(x.ok("release", "package", "--version", "1.2.3", "--root", root, "-o", "json", dir)), &third); err != nil {
		t.Fatal(err)
	}
	for i, f := range third.Items {
		if same := f.SHA256 == first.Items[i].SHA256; same != (f.Format == release.FormatSBOM) {
			t.Errorf("%s at another time: the same %v", f.Format, same)
		}
	}
}

func TestPackageSaysWhatIsWrong(t *testing.T) {
	x := &terminal{t: t, env: map[string]string{"HOME": t.TempDir()}}
	dir, root := dist(t)
	x.ok("release", "package", "--version", "1.2.3", "--root", root, dir)
	script := filepath.Join(t.TempDir(), "linux-amd64", "loopback-agent")
	if err := os.MkdirAll(filepath.Dir(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		words string
		code  int
		says  string
	}{
		{"--version 1.2.3 " + dir, 2, "--keys is missing"},
		{"--version v1 --root " + root + " " + dir, 2, "not a version"},
		{"--version 1.2.3 --root " + root, 2, "FOLDER is missing"},
		{"--version 1.2.3 --root " + root + "-not " + dir, 2, "root cannot be read"},
		{"--version 1.2.3 --anchor zz --root " + root + " " + dir, 2, "hexadecimal"},
		{"--version 1.2.3 --agent-ca-file /not/there --root " + root + " " + dir, 2, "CA of --agent-ca-file"},
		{"--version 1.2.3 --keys " + t.TempDir() + " " + dir, 6, "no publisher's keys"},
		{"--version 1.2.4 --root " + root + " " + dir, 2, "is not of version 1.2.4"},
		{"--version 1.2.3 --root " + root + " " + filepath.Dir(filepath.Dir(script)), 2, "does not say what it was built from"},
		{"--version 1.2.3 --root " + root + " " + t.TempDir(), 2, "looks like linux-amd64/loopback-agent"},
	} {
		r := x.run(append([]string{"release", "package"}, strings.Fields(c.words)...)...)
		if r.code != c.code || !strings.Contains(r.err, c.says) || r.out != "" {
			t.Errorf("%s: got %+v, wanted exit code %d and %q", c.words, r, c.code, c.says)
		}
	}
	x.env["SOURCE_DATE_EPOCH"] = "yesterday"
	if r := x.run("release", "package", "--version", "1.2.3", "--root", root, dir); r.code != 2 || !strings.Contains(r.err, "SOURCE_DATE_EPOCH") {
		t.Errorf("got %+v, wanted that the variable is wrong", r)
	}
}
