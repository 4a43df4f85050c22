// Package reproduce builds what ships twice, as two people would: in another folder, with another cache.
package reproduce

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var programs = []string{"loopback-agent", "loopback", "loopbackd"}

func TestProgramsAreTheSameWhereverTheyAreBuilt(t *testing.T) {
	if os.Getenv("LOOPBACK_TEST_REPRODUCE") == "" {
		t.Skip("compiling everything anew takes minutes; make test does, with LOOPBACK_TEST_REPRODUCE=1")
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "a", "quite different", "place")
	copySource(t, here, elsewhere)
	first := compile(t, here)
	second := compile(t, elsewhere, "GOCACHE="+filepath.Join(t.TempDir(), "cache"), "TZ=Asia/Tokyo", "LC_ALL=C", "USER=somebody", "HOSTNAME=elsewhere")
	for _, p := range programs {
		a, b := read(t, filepath.Join(first, p)), read(t, filepath.Join(second, p))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds differ, of %d and %d bytes", p, len(a), len(b))
		}
		for _, place := range []string{here, elsewhere} {
			if bytes.Contains(a, []byte(place)) {
				t.Errorf("%s names %s", p, place)
			}
		}
	}
}

// copySource copies what git tracks, changed or not, and what the console was built into.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	out, err := list.Output()
	if err != nil {
		t.Skipf("git cannot list the source: %v", err)
	}
	files := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	err = filepath.WalkDir(filepath.Join(from, "web", "dist"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(from, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, f), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// compile builds as make does. The copy has no history, so neither build looks for one.
func compile(t *testing.T, dir string, environ ...string) (out string) {
	t.Helper()
	out = t.TempDir()
	for _, p := range programs {
		c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=1.2.3", "-o", filepath.Join(out, p), "./cmd/"+p)
		c.Dir, c.Env = dir, append(append(os.Environ(), "CGO_ENABLED=0"), environ...)
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s in %s: %v\n%s", p, dir, err, text)
		}
	}
	return out
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
