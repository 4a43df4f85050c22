package install_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/server/install"
)

const theToken = "lbt_00000000000000000000000000_thetoken"

// program is what the script installs in these tests: it writes down how it was started.
func program(version string) []byte {
	head := `#!/bin/sh
{
	echo "version ` + version + `"
	for a in "$@"; do echo "arg $a"; done
	echo "token ${LOOPBACK_TOKEN-none}"
	echo "stdin $(cat)"
	for f in root.json ca.pem; do [ -s "${0%/*}/$f" ] && echo "beside $f $(stat -c %a "${0%/*}")"; done
} >/srv/record
exit 7
`
	return append([]byte(head), bytes.Repeat([]byte("# padding\n"), 40_000)...)
}

// plane is a control plane as the script sees it, with faults.
type plane struct {
	*httptest.Server
	service *install.Service
	script  []byte
	serve   atomic.Value // func(w, r, contents)
	gets    atomic.Int32 // of programs
	ranges  atomic.Int32
}

type serving func(w http.ResponseWriter, r *http.Request, contents []byte)

func whole(w http.ResponseWriter, r *http.Request, contents []byte) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(contents))
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	ca, certificate := authority(t)
	p := &plane{}
	p.serve.Store(serving(whole))
	r := &releases{root: []byte(`{"signed":{}}`)}
	paths := map[string][]byte{}
	for _, v := range []string{"1.0.0", "1.1.0"} {
		x := target(v, runtime.GOARCH, program(v))
		if v == "1.1.0" {
			x.Channel = release.Preview
		}
		r.targets = append(r.targets, x)
		paths[fmt.Sprintf("/dl/targets/%s/%x.%s", filepath.Dir(x.Path), x.SHA256, x.Name)] = program(v)
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/install.sh" {
			p.service.ServeHTTP(w, q)
			return
		}
		contents, ok := paths[q.URL.Path]
		if !ok {
			http.NotFound(w, q)
			return
		}
		p.gets.Add(1)
		if q.Header.Get("Range") != "" {
			p.ranges.Add(1)
		}
		p.serve.Load().(serving)(w, q, contents)
	}))
	p.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	p.StartTLS()
	t.Cleanup(p.Close)
	p.service = newService(t, p.URL, ca, r)
	var err error
	if p.script, err = p.service.Script("", "1.0.0"); err != nil {
		t.Fatal(err)
	}
	return p
}

// tool is a way to fetch, as a folder of programs.
type tool struct{ name, path string }

// tools makes folders that hold all that the script needs and one program to fetch with.
func tools(t *testing.T) []tool {
	t.Helper()
	var out []tool
	for _, name := range []string{"curl", "wget"} {
		dir := filepath.Join("/srv", "tools-"+name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		needed := []string{"awk", "cat", "chmod", "cut", "date", "df", "grep", "head", "id", "mkdir", "mktemp", "mv", "rm", "rmdir", "sed", "sha256sum", "sh", "sleep", "stat", "tail", "uname", "wc"}
		needed = append(needed, name)
		missing := ""
		for _, n := range needed {
			path, err := exec.LookPath(n)
			if err != nil {
				missing = n
				continue
			}
			if n == "sleep" { // the pauses between attempts are not what is tested
				path = "/bin/true"
			}
			if err := os.Symlink(path, filepath.Join(dir, n)); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
		if missing != "" {
			t.Logf("%s is not installed: not tested with %s", missing, name)
			continue
		}
		out = append(out, tool{name, dir})
	}
	return out
}

// run feeds a script to a shell as a pipe does.
func run(sh shell, path string, script []byte, env []string, args ...string) (output string, status int) {
	argv := append(append(sh.argv[1:len(sh.argv):len(sh.argv)], "-s", "--"), args...)
	c := exec.Command(sh.argv[0], argv...)
	c.Env = append([]string{"PATH=" + path, "HOME=/root", "LOOPBACK_TOKEN=" + theToken}, env...)
	c.Stdin = bytes.NewReader(script)
	out, _ := c.CombinedOutput()
	return string(out), c.ProcessState.ExitCode()
}

func record() string {
	b, _ := os.ReadFile("/srv/record")
	_ = os.Remove("/srv/record")
	return string(b)
}

func TestScriptFetchesVerifiesAndHandsOver(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	for _, sh := range shells(t) {
		for _, tl := range tools(t) {
			t.Run(sh.name+" with "+tl.name, func(t *testing.T) {
				out, status := run(sh, tl.path, p.script, nil, "--name", "web 1", "--verbose", "--proxy", "", "--labels=a=b")
				got := record()
				for _, want := range []string{
					"version 1.0.0\n", "arg install\n", "arg --endpoint\narg " + p.URL + "\n", "arg --version\narg 1.0.0\n", "arg --anchor\narg 01020300", "arg --allow-downgrade\n",
					"arg --name\narg web 1\n", "arg --labels=a=b\n", "arg --verbose\n", "token " + theToken + "\n", "stdin \n", "beside root.json 700\n", "beside ca.pem 700\n",
				} {
					if !strings.Contains(got, want) {
						t.Errorf("got %q, wanted %q in it", got, want)
					}
				}
				if status != 7 || strings.Contains(out, theToken) || strings.Contains(strings.ReplaceAll(got, "token "+theToken, ""), theToken) {
					t.Errorf("got status %d and %q; wanted the program's own status, and the token nowhere", status, out)
				}
				if left := traces(t); strings.Contains(left, "/opt/") {
					t.Errorf("left behind:\n%s", left)
				}
			})
		}
	}
}

func TestScriptRefusesWhatIsNotTheProgram(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	flip := func(w http.ResponseWriter, r *http.Request, contents []byte) {
		bad := bytes.Clone(contents)
		bad[len(bad)/2] ^= 1
		whole(w, r, bad)
	}
	short := func(w http.ResponseWriter, r *http.Request, contents []byte) { whole(w, r, contents[:len(contents)-1]) }
	older := func(w http.ResponseWriter, r *http.Request, _ []byte) { whole(w, r, program("0.9.0")) } // of the same length
	hangUp := func(w http.ResponseWriter, _ *http.Request, contents []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(contents)))
		_, _ = w.Write(contents[:1000])
		panic(http.ErrAbortHandler)
	}
	endless := func(w http.ResponseWriter, _ *http.Request, contents []byte) {
		for range 1000 { // 400 MB would fill the disk
			if _, err := w.Write(contents); err != nil {
				return
			}
		}
	}
	status := func(code int) serving {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, "no", code) }
	}
	sh := shells(t)[0]
	for _, tl := range tools(t) {
		for name, c := range map[string]struct {
			serve serving
			want  string
		}{
			"corrupted":      {flip, "its SHA-256 is"},
			"an older one":   {older, "its SHA-256 is"},
			"truncated":      {short, ""},
			"cut every time": {hangUp, ""},
			"endless":        {endless, "longer than what was published"},
			"gone":           {status(404), "404"},
			"forbidden":      {status(403), "403"},
			"broken":         {status(500), "500"},
		} {
			t.Run(name+" with "+tl.name, func(t *testing.T) {
				p.serve.Store(c.serve)
				p.gets.Store(0)
				start := time.Now()
				out, status := run(sh, tl.path, p.script, nil)
				if got := record(); got != "" || status == 0 || !strings.Contains(out, c.want) || !strings.Contains(out, "hint: ") {
					t.Errorf("got status %d, %q, and ran %q; wanted %q, a hint and nothing run", status, out, got, c.want)
				}
				if n := p.gets.Load(); n > 6 || time.Since(start) > 30*time.Second {
					t.Errorf("asked %d times in %s, wanted it to give up", n, time.Since(start))
				}
				if left := traces(t); strings.Contains(left, "/opt/") {
					t.Errorf("left behind:\n%s", left)
				}
			})
		}
	}
}

func TestScriptGoesOnWhereADownloadStopped(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	for _, tl := range tools(t) {
		var n atomic.Int32
		p.ranges.Store(0)
		p.serve.Store(serving(func(w http.ResponseWriter, r *http.Request, contents []byte) {
			if n.Add(1) == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(contents)))
				_, _ = w.Write(contents[:100_000])
				panic(http.ErrAbortHandler)
			}
			whole(w, r, contents)
		}))
		out, status := run(shells(t)[0], tl.path, p.script, nil)
		if got := record(); status != 7 || !strings.Contains(got, "version 1.0.0") || p.ranges.Load() != 1 {
			t.Errorf("%s: got status %d, %d ranges and %q; wanted the program run after one range", tl.name, status, p.ranges.Load(), out)
		}
	}
}

func TestScriptNamesWhatStandsInTheWay(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	sh := shells(t)[0]
	other, _ := authority(t)
	stranger := newService(t, p.URL, other, &releases{[]release.Target{target("1.0.0", runtime.GOARCH, program("1.0.0"))}, []byte("{}")})
	foreign, err := stranger.Script("", "")
	if err != nil {
		t.Fatal(err)
	}
	closed := bytes.ReplaceAll(p.script, []byte(p.URL), []byte("https://127.0.0.1:1"))
	unknown := bytes.ReplaceAll(p.script, []byte(p.URL), []byte("https://nowhere.invalid:8443"))
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, "who are you", http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	exposed, hidden := filepath.Join(t.TempDir(), "exposed"), filepath.Join(t.TempDir(), "hidden")
	for path, mode := range map[string]os.FileMode{exposed: 0o644, hidden: 0o600} {
		if err := os.WriteFile(path, []byte(proxy.URL+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tl := range tools(t) {
		type want struct {
			script []byte
			args   []string
			words  string
		}
		cases := map[string]want{
			"refused":                             {closed, nil, "cannot be reached"},
			"no such name":                        {unknown, nil, "cannot be resolved"},
			"a token as argument":                 {p.script, []string{"--token", theToken}, "read by everybody"},
			"a token as argument=":                {p.script, []string{"--token=" + theToken}, "read by everybody"},
			"a password for a proxy as argument":  {p.script, []string{"--proxy", "http://agent:s3cret@127.0.0.1:1"}, "read by everybody"},
			"a password for a proxy as argument=": {p.script, []string{"--proxy=agent:s3cret@127.0.0.1:1"}, "read by everybody"},
			"a proxy in a file for all to see":    {p.script, []string{"--proxy-file", exposed}, "read by others"},
			"a proxy in no file":                  {p.script, []string{"--proxy-file", exposed + "-not"}, "cannot be read"},
			"a proxy in a file":                   {p.script, []string{"--proxy-file", hidden}, "credentials"},
			"no value":                            {p.script, []string{"--version"}, "needs a value"},
			"a channel":                           {p.script, []string{"--channel", "nightly"}, "no release channel"},
			"a version":                           {p.script, []string{"--version", "$(reboot)"}, "is not a version"},
			"intercepted":                         {foreign, nil, "is not the control plane's"},
			"a proxy for members":                 {p.script, []string{"--proxy", proxy.URL}, "credentials"},
			"no proxy there":                      {p.script, []string{"--proxy", "http://127.0.0.1:1"}, ""},
			"an unknown version":                  {p.script, []string{"--version", "9.9.9"}, "is not published here"},
		}
		for name, c := range cases {
			t.Run(name+" with "+tl.name, func(t *testing.T) {
				out, status := run(sh, tl.path, c.script, nil, c.args...)
				if got := record(); got != "" || status == 0 || !strings.Contains(out, c.words) || !strings.Contains(out, "hint: ") {
					t.Errorf("got status %d, %q, and ran %q; wanted %q and a hint", status, out, got, c.words)
				}
				if left := traces(t); strings.Contains(left, "/opt/") {
					t.Errorf("left behind:\n%s", left)
				}
			})
		}
	}
	t.Run("only busybox to fetch with", func(t *testing.T) {
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			t.Skip("missing feature: busybox")
		}
		dir := "/srv/busybox"
		for _, name := range []string{"wget", "sh", "id", "uname", "grep"} {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(busybox, filepath.Join(dir, name))); err != nil {
				t.Fatal(err)
			}
		}
		if out, status := run(sh, dir, p.script, nil); status == 0 || !strings.Contains(out, "neither curl nor GNU wget") {
			t.Errorf("got status %d and %q", status, out)
		}
	})
	t.Run("another architecture", func(t *testing.T) {
		dir := "/srv/arch"
		if err := os.CopyFS(dir, os.DirFS("/srv/tools-curl")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir + "/uname"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/uname", []byte("#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, status := run(sh, dir, p.script, nil); status == 0 || !strings.Contains(out, "there is no agent for riscv64") {
			t.Errorf("got status %d and %q", status, out)
		}
	})
	remount := func(flags uintptr, options string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", "/opt", "tmpfs", flags|syscall.MS_REMOUNT, options); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		flags          uintptr
		options, words string
	}{
		"noexec":    {syscall.MS_NOEXEC, "size=64m", "cannot be run from /opt/loopback"},
		"full":      {0, "size=200k", "disk is full"},
		"read-only": {syscall.MS_RDONLY, "size=64m", "/opt/loopback cannot be made"},
	} {
		t.Run(name, func(t *testing.T) {
			remount(c.flags, c.options)
			defer remount(0, "size=64m")
			out, status := run(sh, os.Getenv("PATH"), p.script, nil)
			if got := record(); got != "" || status == 0 || !strings.Contains(out, c.words) || !strings.Contains(out, "hint: ") {
				t.Errorf("got status %d, %q, and ran %q; wanted %q and a hint", status, out, got, c.words)
			}
		})
	}
}

func TestScriptFetchesAnotherChannelOrVersion(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	for _, args := range [][]string{{"--version", "1.1.0"}, {"--channel=preview", "--version=1.1.0"}} {
		out, status := run(shells(t)[0], os.Getenv("PATH"), p.script, nil, append(args, "--name", "a b")...)
		if got := record(); status != 7 || !strings.Contains(got, "version 1.1.0\n") || !strings.Contains(got, "arg a b\n") || !strings.Contains(got, "token "+theToken) {
			t.Errorf("%v: got status %d, %q, and ran %q", args, status, out, got)
		}
	}
	if left := traces(t); strings.Contains(left, "/opt/") {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestScriptDownloadOnlyInstallsNothing(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	out, status := run(shells(t)[0], os.Getenv("PATH"), p.script, nil, "--download-only", "/var/bundle")
	if status != 0 || record() != "" || !strings.Contains(out, "/var/bundle/loopback-agent install --endpoint "+p.URL) {
		t.Errorf("got status %d and %q", status, out)
	}
	for name, want := range map[string]string{"loopback-agent": string(program("1.0.0")), "root.json": "{\"signed\":{}}\n"} {
		if got, err := os.ReadFile("/var/bundle/" + name); err != nil || string(got) != want {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
	if left := traces(t); strings.Contains(left, "/opt/") || strings.Contains(left, "staging") {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestScriptHidesTheTokenFromWhatItStarts(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	real, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("missing feature: curl")
	}
	if err := os.MkdirAll("/srv/spy", 0o755); err != nil {
		t.Fatal(err)
	}
	spy := "#!/bin/sh\n{ echo \"$@\"; cat /proc/$$/environ /proc/$PPID/cmdline | tr '\\0' '\\n'; } >>/srv/seen\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile("/srv/spy/curl", []byte(spy), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, status := run(shells(t)[0], "/srv/spy:"+os.Getenv("PATH"), p.script, nil); status != 7 {
		t.Fatalf("got status %d", status)
	}
	if seen, err := os.ReadFile("/srv/seen"); err != nil || len(seen) == 0 || strings.Contains(string(seen), theToken) {
		t.Errorf("what curl was given: %q, %v", seen, err)
	}
}

func TestScriptInterruptedCleansUp(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	p := newPlane(t)
	started := make(chan struct{}, 1)
	p.serve.Store(serving(func(w http.ResponseWriter, r *http.Request, contents []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(contents)))
		_, _ = w.Write(contents[:1000])
		w.(http.Flusher).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	}))
	// A runner may be started with some of them ignored, which a shell would inherit and must then ignore for ever;
	// what this process handles is back to its default in those that it starts.
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, signals...)
	defer signal.Stop(handled)
	for _, sh := range shells(t) {
		for _, signal := range signals {
			c := exec.Command(sh.argv[0], append(sh.argv[1:len(sh.argv):len(sh.argv)], "-s")...)
			c.Env = []string{"PATH=" + os.Getenv("PATH"), "LOOPBACK_TOKEN=" + theToken}
			c.Stdin = bytes.NewReader(p.script)
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			<-started
			if err := syscall.Kill(-c.Process.Pid, signal.(syscall.Signal)); err != nil { // as a terminal does: the whole group
				t.Fatal(err)
			}
			if err := c.Wait(); err == nil {
				t.Errorf("%s: %v: ended as if all were well", sh.name, signal)
			}
			if left := traces(t); strings.Contains(left, "/opt/") {
				t.Errorf("%s: %v: left behind:\n%s", sh.name, signal, left)
			}
		}
	}
}

func TestScriptUninstallWithoutAnAgent(t *testing.T) {
	if !sandbox(t, 0) {
		return
	}
	out, status := run(shells(t)[0], os.Getenv("PATH"), newScript(t), nil, "--uninstall")
	if status != 0 || !strings.Contains(out, "not installed here") {
		t.Errorf("got status %d and %q", status, out)
	}
}
