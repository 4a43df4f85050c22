package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

const anchor = "000102030405060708090a0b0c0d0e0f"

const whole = `# our fleet
endpoints: [https://one.example.com:8443, https://two.example.com] # in this order
ca_file: /etc/loopback/ca.pem
anchor: ` + anchor + `
proxy: http://user:secret@proxy.example.com:3128
no_proxy: [.internal, 10.0.0.0/8]
log_level: debug
verbose: true
transport: poll
key_rotation: 24h
allow:
  exec: true
  # shells are for break-glass
  shell: false
  modules: [lbfw]
`

func TestEverySettingIsRead(t *testing.T) {
	got, err := Parse("agent.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Endpoints = []string{"https://one.example.com:8443", "https://two.example.com"}
	want.CAFile = "/etc/loopback/ca.pem"
	want.Anchor = trust.AnchorHash{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	want.Proxy = "http://user:secret@proxy.example.com:3128"
	want.NoProxy = []string{".internal", "10.0.0.0/8"}
	want.LogLevel, want.Verbose, want.Transport, want.KeyRotation = "debug", true, Poll, 24*time.Hour
	want.Allow.Exec, want.Allow.Modules = true, []string{"lbfw"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestAnEmptyFileAllowsNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "---\n", "# nothing\n", "allow:\n", "{}"} {
		got, err := Parse("agent.yaml", []byte(text))
		if err != nil || !reflect.DeepEqual(got, Default()) {
			t.Errorf("%q: got %+v, %v; want the defaults", text, got, err)
		}
		if a := got.Allow; a.Exec || a.Shell || a.Files || a.Power || len(a.Modules) != 0 {
			t.Errorf("%q allows %+v; want nothing", text, a)
		}
		if err := got.Complete("agent.yaml"); err == nil || !strings.Contains(err.Error(), "endpoints is missing") || !strings.Contains(err.Error(), "anchor is missing") {
			t.Errorf("%q: got %v; want endpoints and anchor named as missing", text, err)
		}
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"endpoint: [https://a]", "line 1: endpoint is not a setting; did you mean endpoints?"},
		{"\nallow: {shel: true}", "line 2: allow.shel is not a setting; did you mean allow.shell?"},
		{"exec: true", "line 1: exec is not a setting here; write it beneath allow:"},
		{"frobnicate: 1", "is not a setting; there are endpoints, ca_file, anchor"},
		{"verbose: true\nverbose: true", "line 2: verbose is given twice, first on line 1"},
		{"endpoints: https://a", "line 1: endpoints is text; write a list"},
		{"endpoints: [http://a]", `endpoints[0] is "http://a"; the control plane is reached by https only`},
		{"endpoints: [https://a/b]", "give only scheme, host and port"},
		{"endpoints: [https://a, https://a]", `endpoints[1] repeats "https://a"`},
		{"endpoints: [nonsense]", "not a URL"},
		{"endpoints: [1]", "endpoints[0] is a number; write text"},
		{"anchor: abc", "an anchor is 32 hexadecimal digits"},
		{"proxy: socks5://a:1", `proxy has the scheme "socks5"`},
		{"no_proxy: ['a,b']", "one host name"},
		{"ca_file: ca.pem", "give an absolute path"},
		{"log_level: loud", "allowed are debug, info, warn, error"},
		{"verbose: 'true'", "verbose is text; write true or false"},
		{"verbose: yes", "write true or false"},
		{"transport: carrier-pigeon", "allowed are auto, websocket, poll"},
		{"key_rotation: 1ms", "allowed are 1s to"},
		{"key_rotation: soon", "not a duration"},
		{"allow: true", "line 1: allow is true or false; write name: value lines"},
		{"allow: {modules: [Über]}", "not a module name"},
		{"allow: {exec: 1}", "allow.exec is a number; write true or false"},
		{"- a", "line 1: the file is a list"},
		{"a: [", "is not YAML: line"},
		{"verbose: true\n---\nverbose: true", "second document"},
		{"x: &a [1]\nendpoints: *a", "endpoints is an alias"},
		{strings.Repeat("#", maxSize+1), "at most"},
	} {
		_, err := Parse("agent.yaml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v; want an error with %q", c.text, err, c.want)
		}
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.60q: got kind %s; want %s", c.text, fault.KindOf(err), fault.Invalid)
		}
	}
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	_, err := Parse("agent.yaml", []byte("endpoints: [x]\nverbose: 3\nallow: {files: maybe}\n"))
	var f *fault.Error
	if !errors.As(err, &f) || len(f.Violations) != 3 {
		t.Errorf("got %v; want three violations", err)
	}
}

func TestAProxyPasswordIsNotRepeated(t *testing.T) {
	_, err := Parse("agent.yaml", []byte("proxy: 'http://u:hunter2@[bad'"))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v; want an error without the password", err)
	}
}

func TestMissingFileSaysWhatToDo(t *testing.T) {
	_, err := Read(filepath.Join(t.TempDir(), "agent.yaml"))
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v; want ErrMissing", err)
	}
}

func TestSaveKeepsCommentsAndChangesOnlyWhatDiffers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "agent.yaml")
	c, err := Parse(path, []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := c.Save(path); changed || err != nil {
		t.Errorf("saving the same: got changed %t, %v; want false", changed, err)
	}
	c.Transport, c.Proxy = WebSocket, ""
	if changed, err := c.Save(path); !changed || err != nil {
		t.Errorf("saving another: got changed %t, %v; want true", changed, err)
	}
	text, _ := os.ReadFile(path)
	for _, want := range []string{"# our fleet", "# in this order", "# shells are for break-glass", "transport: websocket"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the file lost %q:\n%s", want, text)
		}
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, c)
	}
}

func TestSaveWritesAFreshFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "agent.yaml")
	c := Default()
	c.Endpoints, c.Anchor = []string{"https://a.example.com"}, trust.AnchorHash{0x12, 0x34, 15: 0xe1}
	if changed, err := c.Save(path); !changed || err != nil {
		t.Fatalf("got changed %t, %v; want true", changed, err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, c)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %o; want 600", info.Mode().Perm())
	}
	text, _ := os.ReadFile(path)
	for _, want := range []string{"exec: false", "shell: false", "modules: []"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("a fresh file does not show the ceiling %q:\n%s", want, text)
		}
	}
}

func TestSaveDoesNotOverwriteWhatItCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("endpoint: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Default().Save(path); err == nil {
		t.Error("got no error; want the wrong name reported")
	}
	if text, _ := os.ReadFile(path); string(text) != "endpoint: x" {
		t.Errorf("the file became %q", text)
	}
}

// Whatever the text, Parse returns; what it accepts can be saved over that text and reads back as the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("allow: {modules: ['*']}"))
	f.Add([]byte("x: &a [*a]"))
	f.Add([]byte("? [a]\n: b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("agent.yaml", text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(string(text), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if c.Transport == Poll {
			c.Transport = Auto
		} else {
			c.Transport = Poll
		}
		again, err := c.edit("agent.yaml", text)
		if err != nil {
			t.Fatalf("cannot be saved: %v", err)
		}
		got, err := Parse("agent.yaml", again)
		if err != nil || !reflect.DeepEqual(got.normal(), c.normal()) {
			t.Errorf("got %+v, %v\nwant %+v\nfrom %q", got, err, c, again)
		}
	})
}
