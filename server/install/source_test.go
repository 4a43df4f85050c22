package install_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// hashed is the program of 1.0.0 and where it lies below targets.
func hashed() (path string, contents []byte) {
	x := target("1.0.0", runtime.GOARCH, program("1.0.0"))
	return fmt.Sprintf("%s/%x.%s", filepath.Dir(x.Path), x.SHA256, x.Name), program("1.0.0")
}

// without makes a folder of all tools but those.
func without(t *testing.T, names ...string) string {
	t.Helper()
	from := tools(t)[0]
	dir := "/srv/tools-without"
	entries, err := os.ReadDir(from.path)
	if err := errors.Join(err, os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == from.name || bytes.Contains([]byte(strings.Join(names, " ")), []byte(e.Name())) {
			continue
		}
		to, err := os.Readlink(filepath.Join(from.path, e.Name()))
		if err := errors.Join(err, os.Symlink(to, filepath.Join(dir, e.Name()))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestScriptInstallsFromABundle(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	bundle, none := "/srv/a bundle", without(t)
	path, contents := hashed()
	file := filepath.Join(bundle, "targets", path)
	put := func(name string, b []byte) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(bundle, "install.sh"), p.script)
	put(filepath.Join(bundle, "metadata", "timestamp.json"), []byte("{}"))
	execute := func(sh shell, dir, script string, args ...string) (string, int) {
		c := exec.Command(sh.argv[0], append(append(sh.argv[1:len(sh.argv):len(sh.argv)], script), args...)...)
		c.Dir, c.Env = dir, []string{"PATH=" + none, "HOME=/root", "LOOPBACK_TOKEN=" + theToken}
		out, _ := c.CombinedOutput()
		return string(out), c.ProcessState.ExitCode()
	}
	for _, sh := range shells(t) {
		put(file, contents)
		for name, words := range map[string][]string{
			"found by its script": {"/", filepath.Join(bundle, "install.sh"), bundle}, "found beside it": {bundle, "install.sh", "."},
		} {
			out, status := execute(sh, words[0], words[1], "--name", "web-1")
			got := record()
			if status != 7 || !strings.Contains(got, "arg --bundle\narg "+words[2]+"\n") || !strings.Contains(got, "token "+theToken) || p.gets.Load() != 0 {
				t.Errorf("%s, %s: got status %d, %d fetched, %q, ran %q, wanted the program run and nothing fetched", sh.name, name, status, p.gets.Load(), out, got)
			}
		}
		out, status := run(sh, none, p.script, nil, "--bundle", bundle)
		if got := record(); status != 7 || !strings.Contains(got, "arg --bundle\narg "+bundle+"\n") {
			t.Errorf("%s, named: got status %d, %q, ran %q", sh.name, status, out, got)
		}
		for name, c := range map[string]struct {
			b     []byte
			args  []string
			words string
		}{
			"altered":         {bytes.Replace(contents, []byte("1.0.0"), []byte("6.6.6"), 1), nil, "is not loopback-agent 1.0.0"},
			"longer":          {append(bytes.Clone(contents), "# more"...), nil, "is not loopback-agent 1.0.0"},
			"cut short":       {contents[:len(contents)/2], nil, "is not loopback-agent 1.0.0"},
			"missing":         {nil, nil, "the bundle lacks targets/"},
			"another version": {contents, []string{"--version", "1.1.0"}, "the bundle is of loopback-agent 1.0.0"},
		} {
			if c.b == nil {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			} else {
				put(file, c.b)
			}
			out, status := execute(sh, "/", filepath.Join(bundle, "install.sh"), c.args...)
			if got := record(); got != "" || status == 0 || !strings.Contains(out, c.words) || !strings.Contains(out, "hint: ") {
				t.Errorf("%s, %s: got status %d, %q, ran %q, wanted %q and a hint", sh.name, name, status, out, got, c.words)
			}
		}
		if left := traces(t); strings.Contains(left, "/opt/") {
			t.Errorf("left behind:\n%s", left)
		}
	}
}

func TestScriptFetchesFromAMirror(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	path, contents := hashed()
	serve := contents
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/copy/targets/"+path || serve == nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(serve)
	}))
	defer mirror.Close()
	with := tools(t)
	if busybox, err := exec.LookPath("busybox"); err == nil {
		dir := without(t)
		if err := os.Symlink(busybox, filepath.Join(dir, "wget")); err != nil {
			t.Fatal(err)
		}
		with = append(with, tool{"busybox", dir})
	}
	sh := shells(t)[0]
	for _, tl := range with {
		serve = contents
		out, status := run(sh, tl.path, p.script, nil, "--mirror", mirror.URL+"/copy/")
		if got := record(); status != 7 || !strings.Contains(got, "arg --mirror\narg "+mirror.URL+"/copy\n") || p.gets.Load() != 0 {
			t.Errorf("%s: got status %d, %d fetched from the control plane, %q, ran %q", tl.name, status, p.gets.Load(), out, got)
		}
		for name, c := range map[string]struct {
			b     []byte
			args  []string
			words string
		}{
			"altered":        {bytes.ToUpper(contents), nil, "is not loopback-agent 1.0.0"},
			"longer":         {append(bytes.Clone(contents), "more"...), nil, "is longer"},
			"missing":        {nil, nil, ""},
			"not an address": {contents, []string{"--mirror", "/srv/files"}, "is not a mirror's address"},
		} {
			serve = c.b
			args := c.args
			if args == nil {
				args = []string{"--mirror", mirror.URL + "/copy"}
			}
			out, status := run(sh, tl.path, p.script, nil, args...)
			if got := record(); got != "" || status == 0 || !strings.Contains(out, c.words) || !strings.Contains(out, "hint: ") {
				t.Errorf("%s, %s: got status %d, %q, ran %q, wanted %q and a hint", tl.name, name, status, out, got, c.words)
			}
		}
		if tl.name == "busybox" {
			serve = contents
			out, status := run(sh, tl.path, p.script, nil, "--mirror", mirror.URL+"/copy", "--version", "1.1.0")
			if status == 0 || !strings.Contains(out, "cannot fetch safely") {
				t.Errorf("another version by busybox: got status %d, %q", status, out)
			}
		}
	}
}
