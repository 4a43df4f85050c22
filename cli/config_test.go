package cli_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/cli"
)

// signedOut is a terminal with a home and nothing in its environment.
func signedOut(t *testing.T) *terminal {
	return &terminal{t: t, env: map[string]string{"HOME": t.TempDir()}}
}

func (x *terminal) configFile() string {
	return filepath.Join(x.env["HOME"], ".config", "loopback", "config.yaml")
}

func TestNobodyIsSignedIn(t *testing.T) {
	x := signedOut(t)
	x.fails(3, "no control plane is named", "loopback login URL", "host", "list")
}

func TestLoginWithKeyRemembersAContext(t *testing.T) {
	p := new(controlPlane).start(t)
	x := signedOut(t)
	x.in = adminKey + "\n"
	url := "https://" + p.address
	r := x.run("login", url+"/", "--ca-file", p.caFile(t))
	if r.code != 0 || r.out != "" || !strings.Contains(r.err, "signed in to "+url+" as administrator; remembered as context 127.0.0.1") {
		t.Fatalf("got %+v, want that the context is remembered", r)
	}
	if st, err := os.Stat(x.configFile()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v (%v), want mode 0600: it holds a key", st.Mode(), err)
	}
	x.in = ""
	if out := x.ok("whoami"); !strings.Contains(out, "administrator") || !strings.Contains(out, url) {
		t.Errorf("whoami says %q, want who signed in, and where", out)
	}
	if out := x.ok("context", "list"); strings.Contains(out, adminKey) || !strings.Contains(out, "127.0.0.1  yes") {
		t.Errorf("context list shows %q, want the context without its key", out)
	}
}

func TestLoginWithBootstrapCode(t *testing.T) {
	p := &controlPlane{code: "first-way-in"}
	p.start(t)
	x := signedOut(t)
	x.env["LOOPBACK_CA_FILE"] = p.caFile(t)
	x.in = "wrong\n"
	x.fails(3, "not valid", "prints a new one", "login", "https://"+p.address)
	if _, err := os.Stat(x.configFile()); err == nil {
		t.Error("a login that failed left a configuration file")
	}
	x.env["LOOPBACK_BOOTSTRAP_CODE"] = "first-way-in"
	x.ok("login", "https://"+p.address, "--name", "ada", "--context", "prod")
	delete(x.env, "LOOPBACK_BOOTSTRAP_CODE")
	if out := x.ok("whoami"); !strings.Contains(out, "ada") {
		t.Errorf("whoami says %q, want the key that the code was traded for", out)
	}
	if out := x.ok("context", "list", "-o", "json"); !strings.Contains(out, `"name": "prod"`) {
		t.Errorf("contexts are %s, want one with the name that was given", out)
	}
	x.in = ""
	x.fails(2, "no API key", "add --help", "login", "https://"+p.address)
}

// A key that was traded for a code and cannot be kept is shown: nobody gets another.
func TestLoginShowsAKeyThatItCannotKeep(t *testing.T) {
	p := &controlPlane{code: "first-way-in"}
	p.start(t)
	x := signedOut(t)
	x.env["LOOPBACK_CA_FILE"], x.env["LOOPBACK_BOOTSTRAP_CODE"] = p.caFile(t), "first-way-in"
	// A folder that cannot even be read is found before the code is spent.
	x.env["XDG_CONFIG_HOME"] = filepath.Join(x.env["LOOPBACK_CA_FILE"], "below-a-file")
	x.fails(2, "cannot be read", "mend it", "login", "https://"+p.address)
	if p.code == "" {
		t.Fatal("the code is spent on a login that could not be remembered")
	}
	x.env["XDG_CONFIG_HOME"] = t.TempDir()
	if err := os.Symlink("/nowhere/at/all", filepath.Join(x.env["XDG_CONFIG_HOME"], "loopback")); err != nil {
		t.Fatal(err)
	}
	r := x.run("login", "https://"+p.address)
	if r.code != 6 || !strings.Contains(r.err, "lbk_key_1") {
		t.Errorf("got %+v, want exit code 6 and the key", r)
	}
}

func TestLoginKeepsTheOnlyWorkspace(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	x.ok("workspace", "create", "prod")
	if r := x.run("login", x.env["LOOPBACK_URL"]); r.code != 0 || !strings.Contains(r.err, "workspace prod") {
		t.Errorf("got %+v, want that the only workspace is remembered", r)
	}
}

func TestTwoControlPlanesOnOneMachineAreTwoContexts(t *testing.T) {
	a, b := new(controlPlane).start(t), new(controlPlane).start(t)
	x := signedOut(t)
	x.env["LOOPBACK_API_KEY"] = adminKey
	for _, p := range []*controlPlane{a, b, a} {
		x.ok("login", "https://"+p.address, "--ca-file", p.caFile(t))
	}
	delete(x.env, "LOOPBACK_API_KEY")
	out := x.ok("context", "list")
	if strings.Count(out, "\n") != 3 || !strings.Contains(out, a.address) || !strings.Contains(out, b.address) {
		t.Fatalf("contexts are %q, want one for each control plane", out)
	}
	x.ok("context", "use", b.address)
	if out := x.ok("whoami"); !strings.Contains(out, b.address) {
		t.Errorf("whoami says %q, want the context that was chosen", out)
	}
	x.ok("context", "delete", b.address)
	x.fails(3, "no control plane is named", "login", "whoami")
	x.fails(5, "there is no context", "context list", "context", "use", b.address)
}

// Flags win over variables, variables over the file; a context named by a flag is meant whole.
func TestPrecedence(t *testing.T) {
	file, variable, flag := new(controlPlane).start(t), new(controlPlane).start(t), new(controlPlane).start(t)
	x := signedOut(t)
	ca := file.caFile(t) // the test server's certificate is one and the same
	x.in = adminKey
	x.ok("login", "https://"+file.address, "--ca-file", ca, "--workspace", "of-file", "--context", "kept")
	x.in = ""
	where := func(args ...string) string {
		t.Helper()
		for _, line := range strings.Split(x.ok(append(args, "whoami")...), "\n") {
			if rest, ok := strings.CutPrefix(line, "control plane"); ok {
				return strings.TrimPrefix(strings.TrimSpace(rest), "https://")
			}
		}
		return ""
	}
	if got := where(); got != file.address {
		t.Errorf("with a file alone the control plane is %s, want %s", got, file.address)
	}
	x.env["LOOPBACK_URL"] = "https://" + variable.address
	x.fails(7, "unknown authority", "--ca-file", "whoami") // nothing of the file's goes to another control plane
	x.env["LOOPBACK_CA_FILE"] = ca
	x.fails(3, "not signed in", "login", "whoami")
	x.env["LOOPBACK_API_KEY"] = adminKey
	if got := where(); got != variable.address {
		t.Errorf("with a variable the control plane is %s, want %s", got, variable.address)
	}
	if got := where("--url", "https://"+flag.address); got != flag.address {
		t.Errorf("with a flag the control plane is %s, want %s", got, flag.address)
	}
	x.env["LOOPBACK_API_KEY"] = "lbk_wrong"
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(adminKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := where("--api-key-file", key); got != variable.address {
		t.Errorf("with a key file the control plane is %s, want %s", got, variable.address)
	}
	x.env["LOOPBACK_CA_FILE"] = "/nowhere"
	if got := where("--context", "kept"); got != file.address {
		t.Errorf("with --context the control plane is %s, want %s", got, file.address)
	}
	x.fails(2, `no context "lost"`, "context list", "whoami", "--context", "lost")
	x.fails(2, "the CA file cannot be read", "add --help", "whoami")
	x.fails(2, "the API key file cannot be read", "add --help", "whoami", "--api-key-file", "/nowhere")

	x = &terminal{t: t, env: map[string]string{"HOME": x.env["HOME"]}}
	for _, c := range []struct{ env, want string }{{"", "of-file"}, {"of-variable", "of-variable"}} {
		x.env["LOOPBACK_WORKSPACE"] = c.env
		x.ok("token", "mint")
		if got := file.lastMint.Workspace; got != c.want {
			t.Errorf("with LOOPBACK_WORKSPACE=%q the workspace is %q, want %q", c.env, got, c.want)
		}
	}
	x.ok("token", "mint", "-w", "of-flag")
	if got := file.lastMint.Workspace; got != "of-flag" {
		t.Errorf("with a flag the workspace is %q, want of-flag", got)
	}
	x.env["LOOPBACK_CONTEXT"] = "lost"
	x.fails(2, `no context "lost"`, "context list", "whoami")
	x.env["LOOPBACK_CONTEXT"] = "kept"
	if got := where(); got != file.address {
		t.Errorf("with LOOPBACK_CONTEXT the control plane is %s, want %s", got, file.address)
	}
}

func TestADamagedFileIsNotLost(t *testing.T) {
	x := signedOut(t)
	if err := os.MkdirAll(filepath.Dir(x.configFile()), 0o700); err != nil {
		t.Fatal(err)
	}
	const text = "contexts: [this is\n\x00 no mapping"
	if err := os.WriteFile(x.configFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	x.fails(2, "cannot be read", "mend it", "whoami")
	x.fails(2, "cannot be read", "mend it", "login", "https://127.0.0.1:1")
	if got, _ := os.ReadFile(x.configFile()); string(got) != text {
		t.Errorf("the file holds %q now, want it untouched", got)
	}
}

func TestUntrustedCertificate(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	x.env["LOOPBACK_CA_FILE"] = ""
	for _, words := range []string{"whoami", "host watch", "host wait web-1", "audit tail"} {
		x.fails(7, "unknown authority", "--ca-file", strings.Fields(words)...)
	}
	bad := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.fails(2, "no PEM certificate", "add --help", "whoami", "--ca-file", bad)
}

// endless is the input of somebody who does not type.
type endless struct{ closed chan struct{} }

func (e endless) Read([]byte) (int, error) { <-e.closed; return 0, io.EOF }

func TestAQuestionCanBeInterrupted(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"))
	for _, args := range [][]string{{"host", "remove", "web-1"}, {"login", "https://" + p.address}} {
		ctx, cancel := context.WithCancel(t.Context())
		out := newLines()
		in := endless{make(chan struct{})}
		delete(x.env, map[bool]string{true: "LOOPBACK_API_KEY"}[args[0] == "login"])
		ended := make(chan int)
		go func() {
			ended <- cli.Run(ctx, args, cli.Environment{In: in, Out: io.Discard, Err: out, Interactive: true, Getenv: func(n string) string { return x.env[n] }})
		}()
		out.waitFor(t, t.Context(), map[string]string{"host": "remove web-1? [y/N] ", "login": "bootstrap code: "}[args[0]])
		cancel()
		if code := <-ended; code != cli.Interrupted {
			t.Errorf("%v: exit code %d, want %d", args, code, cli.Interrupted)
		}
		close(in.closed)
	}
	if h, _ := p.host("web-1"); h.State != "managed" {
		t.Errorf("the host is %s, want it left alone", h.State)
	}
}
