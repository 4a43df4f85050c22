package install

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

func TestParseOptions(t *testing.T) {
	o, err := ParseOptions([]string{
		"--endpoint", "https://lb:8443", "--anchor=000102030405060708090a0b0c0d0e0f", "--labels", "env=prod, tier=web", "--allow-exec", "--allow-shell=false", "--wait", "90s",
	}, nil, &bytes.Buffer{})
	if err != nil || o.Endpoint != "https://lb:8443" || o.Anchor[15] != 15 || o.Labels["tier"] != "web" || !*o.Allow.Exec || *o.Allow.Shell || o.Allow.Files != nil || o.Wait.Seconds() != 90 {
		t.Errorf("got %+v, %v", o, err)
	}
	secret := token.NewSecret("tok_00000000000000000000000000", trust.AnchorHash{}).Reveal()
	for _, c := range []struct {
		want string
		args []string
	}{
		{"token_exposed", []string{"--token", secret}}, {"token_exposed", []string{"-token=" + secret}}, {"token_exposed", []string{"--token"}},
		{"token_exposed", []string{secret}}, {"token_exposed", []string{"--token-file", secret}}, {"token_exposed", []string{"--name=" + secret}},
		{"usage", []string{"--nonsense"}}, {"usage", []string{"extra"}}, {"usage", []string{"--wait", "soon"}}, {"usage", []string{"--wait", "-1s"}},
		{"usage", []string{"--anchor", "12"}}, {"usage", []string{"--anchor", strings.Repeat("g", 32)}}, {"usage", []string{"--version", "v1"}}, {"usage", []string{"--channel", "nightly"}},
		{"proxy_exposed", []string{"--proxy", "http://agent:s3cret@proxy:1"}}, {"proxy_exposed", []string{"--proxy=agent:s3cret@proxy:1"}},
		{"usage", []string{"--proxy", "http://proxy:1", "--proxy-file", "/root/proxy"}}, {"usage", []string{"-o", "yaml"}},
		{"usage", []string{"--labels", "x"}}, {"usage", []string{"--labels", "a=1,a=2"}}, {"usage", []string{"--labels", "a=$(id)"}}, {"usage", []string{"--allow-exec=maybe"}},
	} {
		_, err := ParseOptions(c.args, nil, &bytes.Buffer{})
		if code(err) != c.want || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v: got %v, wanted %s", c.args[0], err, c.want)
		}
	}
	var help bytes.Buffer
	if _, err := ParseOptions([]string{"--help"}, nil, &help); !errors.Is(err, ErrHelp) || !strings.Contains(help.String(), "--token-file") {
		t.Errorf("--help: got %v and %q", err, help.String())
	}
	if u, err := ParseUninstallOptions([]string{"--purge"}, &help); err != nil || !u.Purge {
		t.Errorf("got %+v, %v", u, err)
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("--labels=a=b,c", "--anchor", "00")
	f.Add("--allow-exec", "--wait=1h", "-x")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var help bytes.Buffer
		if _, err := ParseOptions([]string{a, b, c}, nil, &help); err != nil && !errors.Is(err, ErrHelp) && strings.Contains(err.Error(), "lbt_") {
			t.Fatalf("repeats what may be a token: %v", err)
		}
	})
}

// The test runs itself as a process of its own that was started with a token.
func TestTheTokenIsWipedFromTheEnvironment(t *testing.T) {
	const text = "lbt_00000000000000000000000000_thetoken"
	if os.Getenv("LOOPBACK_TEST_WIPE") == "1" {
		got, err := TakeTokenFromEnvironment()
		if err != nil || got != text {
			t.Fatalf("got %q, %v", got, err)
		}
		shown, err := os.ReadFile("/proc/self/environ")
		if err != nil {
			t.Fatal(err)
		}
		child, err := exec.Command("/proc/self/exe", "-test.run=^$").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, child)
		}
		if bytes.Contains(shown, []byte("thetoken")) || !bytes.Contains(shown, []byte("AFTER=still here")) || os.Getenv(TokenVariable) != "" || os.Getenv("AFTER") != "still here" {
			t.Errorf("the environment shows %q", shown)
		}
		if again, err := TakeTokenFromEnvironment(); again != "" || err != nil {
			t.Errorf("a second time: got %q, %v", again, err)
		}
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), "LOOPBACK_TEST_WIPE=1", TokenVariable+"="+text, "AFTER=still here")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
