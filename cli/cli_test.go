package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/fault"
)

// lists are all commands that list.
var lists = []string{"org list", "project list", "workspace list", "token list", "host list", "operation list", "apikey list", "audit list", "context list"}

func TestEmptyListIsAHintForPeopleAndItemsForPrograms(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for _, l := range lists {
		words := strings.Fields(l)
		r := x.run(words...)
		if r.code != 0 || r.out != "" || r.err == "" {
			t.Errorf("%s: got %+v, want a hint on standard error alone", l, r)
		}
		for format, want := range map[string]string{"json": "{\n  \"items\": []\n}\n", "yaml": "items: []\n"} {
			if r := x.run(append(words, "-o", format)...); r.code != 0 || r.out != want || r.err != "" {
				t.Errorf("%s -o %s: got %+v, want %q alone", l, format, r, want)
			}
		}
	}
}

// fill puts one of everything into the control plane.
func fill(t *testing.T, x *terminal) {
	t.Helper()
	x.ok("org", "create", "acme")
	x.ok("project", "create", "shop", "--org", "acme")
	x.ok("workspace", "create", "prod", "--project", "shop", "--token-ttl", "2h", "--require-approval")
	x.ok("token", "mint", "--name", "first", "--host-label", "env=prod", "--max-uses", "1000000")
	x.ok("host", "add", "web-1", "--address", "192.0.2.1", "--label", "env=prod")
	x.ok("apikey", "create", "ci", "--permission", "hosts.read")
}

func TestEveryFormatTellsTheSame(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	fill(t, x)
	p.write("agent_tokens.mint", "tok_1")
	for _, c := range []struct{ words, table string }{
		{"org show acme", "acme"}, {"project show shop", "acme"}, {"workspace show prod", "2h"}, {"token show first", "1000000"},
		{"host show web-1", "192.0.2.1"}, {"apikey show ci", "hosts.read"}, {"whoami", "* in everything"}, {"settings show", "20s"},
		{"org list", "acme"}, {"project list", "shop"}, {"workspace list", "prod"}, {"token list", "0/1000000"}, {"host list", "env=prod"},
		{"host list web-1 --wide", "hst_web-1"}, {"apikey list", "hosts.read"}, {"audit list", "agent_tokens.mint"}, {"version", "1.2.3"},
	} {
		words := strings.Fields(c.words)
		if out := x.ok(words...); !strings.Contains(out, c.table) {
			t.Errorf("%s: got %q, want %q in it", c.words, out, c.table)
		}
		var fromJSON, fromYAML map[string]any
		text := x.ok(append(words, "-o", "json")...)
		if err := json.Unmarshal([]byte(text), &fromJSON); err != nil {
			t.Fatalf("%s: %v in %q", c.words, err, text)
		}
		yamlText := x.ok(append(words, "-o", "yaml")...)
		if err := yaml.Unmarshal([]byte(yamlText), &fromYAML); err != nil {
			t.Fatalf("%s: %v in %q", c.words, err, yamlText)
		}
		again, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(fromJSON)
		if string(again) != string(want) {
			t.Errorf("%s: YAML says %s, JSON says %s", c.words, again, want)
		}
		if strings.Contains(yamlText, "e+") {
			t.Errorf("%s: YAML has a number that is no integer any more: %q", c.words, yamlText)
		}
		if items, ok := fromJSON["items"].([]any); strings.Contains(c.words, "list") && (!ok || len(items) != 1) {
			t.Errorf("%s: got %s, want one item", c.words, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for kind, code := range map[fault.Kind]int{
		fault.Internal: 1, fault.Invalid: 2, fault.Unauthenticated: 3, fault.Denied: 4, fault.NotFound: 5, fault.Exists: 6, fault.Conflict: 6,
		fault.Precondition: 6, fault.Unavailable: 7, fault.Timeout: 7, fault.Exhausted: 7,
	} {
		p.failWith = fault.New(kind, "some_code", "this\nwent \x1b[31mwrong").WithHint("do\nthat")
		x.fails(code, "this went \ufffd[31mwrong", "do that", "host", "list")
		p.failWith = fault.New(kind, "some_code", "this went wrong")
		x.fails(code, "this went wrong", "", "host", "show", "web-1", "-o", "json")
	}
	p.failWith = nil
	x.fails(2, "ttl is more than 90 days; maxUses is missing", "ask for less", "token", "mint", "--ttl", "91d")
	x.env["LOOPBACK_API_KEY"] = "lbk_wrong"
	x.fails(3, "not signed in", "loopback login", "whoami")
	x.env["LOOPBACK_API_KEY"] = adminKey
	x.fails(5, "web-9", "host list", "host", "show", "web-9")
	x.ok("host", "add", "web-1")
	x.fails(6, "web-1", "", "host", "add", "web-1")
	p.stop()
	x.fails(7, "cannot be reached", "is loopbackd running", "host", "list")
}

func TestMistakesAreNamed(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for _, c := range []struct{ words, message, hint string }{
		{"host lst", `unknown command "lst" for "loopback host"`, "did you mean: loopback host list"},
		{"host ls", `unknown command "ls"`, "loopback host list"},
		{"hosts list", `unknown command "hosts"`, "loopback host"},
		{"hosts list --state offline", `unknown command "hosts"`, "loopback host"},
		{"token create", `unknown command "create"`, "loopback token mint"},
		{"organization list", `unknown command "organization"`, "loopback org"},
		{"frobnicate", `unknown command "frobnicate"`, "loopback --help lists what there is"},
		{"host frobnicate", `unknown command "frobnicate"`, "loopback host --help lists what there is"},
		{"help host lst", `unknown command "lst"`, "did you mean: loopback host list"},
		{"token mint --tll 2h", "unknown flag: --tll", "did you mean: --ttl"},
		{"token mint --colour red", "unknown flag: --colour", "add --help"},
		{"host list -o xml", `"xml"; it is table, json or yaml`, "add --help"},
		{"host list --limit -1", "--limit is -1", "add --help"},
		{"host list web-1 --state offline", "not both", "add --help"},
		{"host show", "HOST is missing", "add --help"},
		{"host show a b", `"b" is one word too many`, "add --help"},
		{"host label web-1", "at least one KEY=VALUE or KEY-", "add --help"},
		{"host label web-1 env", `"env" is not a label`, "add --help"},
		{"host label web-1 -- -", "names no label", "add --help"},
		{"host label web-1 =x", `"=x" is not a label`, "add --help"},
		{"host label web-1 a=1 a=2", `"a" is given twice`, "add --help"},
		{"host label web-1 a=1 a-", `"a" is set and removed`, "add --help"},
		{"host remove", "HOST is missing", "add --help"},
		{"host remove web-1 -l a=b", "not both", "add --help"},
		{"host move web-1", "--to is missing", "add --help"},
		{"host wait", "name hosts", "add --help"},
		{"host wait web-1 --for broken", `"broken" is not a state of a host; the states are removed, unmanaged`, "add --help"},
		{"host wait web-1 --count 2", "--count goes with --selector", "add --help"},
		{"host wait -l a=b --count -2", "--count is -2", "add --help"},
		{"token mint --ttl tomorrow", `"tomorrow" is not a span of time`, "add --help"},
		{"token mint --ttl=-2d", `"-2d" is too short`, "add --help"},
		{"token mint --ttl 0", `"0" is too short`, "add --help"},
		{"token mint --ttl NaNd", `"NaNd" is not a span of time`, "add --help"},
		{"token mint --ttl 9999999999d", "is not a span of time", "add --help"},
		{"token mint --max-uses lots", `invalid argument "lots"`, "add --help"},
		{"token mint --host-label env", `"env" is not a label`, "add --help"},
		{"audit list --since yesterday", `"yesterday" is not a time`, "add --help"},
		{"whoami --timeout -3s", "--timeout is -3s", "add --help"},
		{"settings set", "there is nothing to change", "add --help"},
		{"settings set --unset colour", `"colour" cannot be unset`, "add --help"},
		{"workspace update prod", "there is nothing to change", "add --help"},
		{"completion tcsh", `"tcsh" is not a shell known here`, "add --help"},
		{"login http://cp.example.com", "not https://HOST[:PORT]", "--url"},
		{"whoami --url cp.example.com:8443", "not https://HOST[:PORT]", "--url"},
	} {
		x.fails(2, c.message, c.hint, strings.Fields(c.words)...)
	}
	if len(p.calls) != 1 || !strings.HasSuffix(p.calls[0], "/GetSettings") {
		t.Errorf("mistakes reached the control plane: %v", p.calls)
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	x := &terminal{t: t, env: map[string]string{}}
	var walk func(path []string)
	root := cli.Root()
	walk = func(path []string) {
		r := x.run(append(path, "--help")...)
		if r.code != 0 || r.err != "" || !strings.Contains(r.out, "Usage:\n  loopback") {
			t.Errorf("%v --help: got %+v, want the usage on standard output", path, r)
		}
		for _, wrong := range []string{"[=true|false]", " int32 ", " string  ", "\x1b"} {
			if strings.Contains(r.out, wrong) {
				t.Errorf("%v --help has %q: %s", path, wrong, r.out)
			}
		}
		c, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range c.Commands() {
			walk(append(path[:len(path):len(path)], one.Name()))
		}
	}
	walk(nil)
}

// hostile is what a host may say of itself to fool its reader: escapes, C1 controls, reversed writing, invisible marks.
const hostile = "a\x1b]0;owned\a\x1b[2J\u009b31m\u202egnp\u2066\u200b\u061c\U000e0041\r\nz\ttab\u2028é猫"

func TestWhatAHostSaysCannotSteerTheTerminal(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	x.tty = true
	p.put(&pb.Host{Id: "hst_1", Name: hostile, State: "degraded", Reason: hostile, AgentVersion: hostile, Labels: map[string]string{hostile: hostile},
		Inventory: &pb.Inventory{HostName: hostile, OsName: hostile, Disks: []*pb.Disk{{Mount: hostile, Device: hostile}}, Addresses: []*pb.InterfaceAddress{{Interface: hostile, Mac: hostile}}},
		Sections:  []*pb.SectionStatus{{Name: hostile, Message: hostile}}, Modules: []*pb.ModuleHealth{{Module: hostile, Message: hostile}},
		Ceiling: &pb.Ceiling{Modules: []string{hostile}}})
	p.step = func(o *pb.Operation) {
		o.State, o.Error = "failed", &pb.OperationError{Code: "failed", Message: hostile}
		o.Steps = []*pb.OperationStep{{Name: hostile, State: hostile, Message: hostile}}
	}
	p.write(hostile, hostile)
	commands := [][]string{{"host", "show", hostile + "?"}, {"host", hostile}, {"host", "wait", "--for", hostile}}
	for _, words := range []string{
		"host list", "host list --wide", "host show hst_1", "host quarantine hst_1 --yes", "operation list", "audit list",
		"host wait hst_1 --timeout 300ms", "host wait -l !absent --timeout 300ms", "host watch --timeout 300ms", "host label hst_1 a=b",
	} {
		commands = append(commands, strings.Fields(words))
	}
	for _, words := range commands {
		for _, format := range []string{"table", "json", "yaml"} {
			r := x.run(append(words, "-o", format)...)
			if r.out+r.err == "" {
				t.Errorf("%q -o %s: says nothing", words, format)
			}
			for _, c := range r.out + r.err {
				if c != '\n' && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == '\u2028') {
					t.Fatalf("%q -o %s: %U reaches the terminal in %q", words, format, c, r.out+r.err)
				}
			}
		}
	}
	var named struct{ Name string }
	if err := json.Unmarshal([]byte(x.ok("host", "show", "hst_1", "-o", "json")), &named); err != nil || named.Name != hostile {
		t.Errorf("JSON says the name is %q (%v), want %q", named.Name, err, hostile)
	}
	var fromYAML struct{ Name, Reason string }
	if err := yaml.Unmarshal([]byte(x.ok("host", "show", "hst_1", "-o", "yaml")), &fromYAML); err != nil || fromYAML.Name != hostile {
		t.Errorf("YAML says the name is %q (%v), want %q", fromYAML.Name, err, hostile)
	}
	if out := x.run("__complete", "host", "show", "").out; strings.Contains(out, "owned") {
		t.Errorf("completion offers %q", out)
	}
}

func FuzzNothingSteersTheTerminal(f *testing.F) {
	f.Add(hostile)
	f.Add("\x00\x7f\u0085")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		one := new(controlPlane).start(t)
		defer one.stop()
		one.put(&pb.Host{Id: "hst_1", Name: "n" + s, State: "managed"})
		x := sit(t, one)
		for _, format := range []string{"table", "json", "yaml"} {
			out := x.ok("host", "show", "hst_1", "-o", format)
			for _, c := range out {
				if c != '\n' && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c)) {
					t.Fatalf("-o %s: %U reaches the terminal in %q", format, c, out)
				}
			}
			var back struct{ Name string }
			var err error
			switch format {
			case "json":
				err = json.Unmarshal([]byte(out), &back)
			case "yaml":
				err = yaml.Unmarshal([]byte(out), &back)
			default:
				continue
			}
			if err != nil || back.Name != "n"+s {
				t.Fatalf("-o %s: the name %q comes back as %q (%v)", format, "n"+s, back.Name, err)
			}
		}
	})
}

func TestListsShowEveryPage(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for i := range 2345 {
		p.hosts = append(p.hosts, &pb.Host{Id: fmt.Sprintf("hst_%d", i), Name: fmt.Sprintf("web-%d", i), State: "managed", Since: timestamppb.Now()})
	}
	if n := strings.Count(x.ok("host", "list"), "\n"); n != 2346 {
		t.Errorf("the table has %d lines, want 2,345 hosts and a title", n)
	}
	var got struct{ Items []struct{ Name string } }
	if err := json.Unmarshal([]byte(x.ok("host", "list", "-o", "json")), &got); err != nil || len(got.Items) != 2345 {
		t.Errorf("JSON has %d hosts (%v), want 2,345", len(got.Items), err)
	}
	r := x.run("host", "list", "--limit", "1500")
	if n := strings.Count(r.out, "\n"); r.code != 0 || n != 1501 || !strings.Contains(r.err, "--limit") {
		t.Errorf("--limit 1500: %d lines, said %q, want 1,501 and that there are more", n, r.err)
	}
	offered := x.ok("__complete", "host", "show", "web-23")
	if !strings.Contains(offered, "web-2344\tmanaged\n") || strings.Contains(offered, "web-1\t") {
		t.Errorf("completion of web-23 offers %q, want the last host and no other prefix", offered)
	}
}

func TestLongFieldsAreCutOnATerminalOnly(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	name, reason := strings.Repeat("n", 500), strings.Repeat("é", 5000)
	p.put(&pb.Host{Name: name, State: "degraded", Reason: reason})
	if out := x.ok("host", "list"); !strings.Contains(out, name) || !strings.Contains(out, reason) {
		t.Error("a table that a program reads is cut")
	}
	x.tty = true
	if out := x.ok("host", "list"); !strings.Contains(out, name) || strings.Contains(out, reason) || !strings.Contains(out, strings.Repeat("é", 59)+"…\n") {
		t.Errorf("on a terminal the table is %q, want the whole name and a reason that is cut", out)
	}
	if out := x.ok("host", "show", name); !strings.Contains(out, reason) {
		t.Error("host show cuts the reason")
	}
}

func TestCompletion(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "managed"}, &pb.Host{Name: "web-2", State: "offline"}, &pb.Host{Name: "db-1", State: "managed"})
	for _, c := range []struct{ words, want string }{
		{"host show |web", "web-1\tmanaged\nweb-2\toffline\n:4\n"},
		{"host show web-1 |", ":4\n"},
		{"host remove web-1 |", "web-2\toffline\ndb-1\tmanaged\n:4\n"},
		{"host list --state |", "removed\nunmanaged\nquarantined\npending\nenrolling\noffline\nupdating\ndegraded\nmanaged\n:4\n"},
		{"host list -o |", "table\njson\nyaml\n:4\n"},
		{"completion |", "bash\nzsh\nfish\npowershell\n:4\n"},
	} {
		line, prefix, _ := strings.Cut(c.words, "|")
		r := x.run(append(append([]string{"__complete"}, strings.Fields(line)...), prefix)...)
		if r.out != c.want {
			t.Errorf("completing %q offers %q, want %q", c.words, r.out, c.want)
		}
	}
	p.stop()
	if r := x.run("__complete", "host", "show", ""); r.out != ":4\n" {
		t.Errorf("with no control plane completion offers %q, want nothing", r.out)
	}
	for shell, mark := range map[string]string{"bash": "__start_loopback", "zsh": "#compdef loopback", "fish": "complete -c loopback", "powershell": "Register-ArgumentCompleter"} {
		if out := x.ok("completion", shell); !strings.Contains(out, mark) {
			t.Errorf("completion %s lacks %q", shell, mark)
		}
	}
}

func TestNoColourAnywhere(t *testing.T) {
	p := new(controlPlane).start(t)
	for _, env := range []string{"", "1"} {
		x := sit(t, p)
		x.tty, x.env["NO_COLOR"] = env == "", env
		p.put(&pb.Host{Name: "web-1", State: "degraded", Reason: "module lbfw is unhealthy"})
		for _, words := range []string{"host list", "host show web-1", "host show web-9", "host frob"} {
			if r := x.run(strings.Fields(words)...); strings.Contains(r.out+r.err, "\x1b") {
				t.Errorf("%s with NO_COLOR=%q writes an escape: %q", words, env, r.out+r.err)
			}
		}
	}
}

func TestInterruptEndsWithItsCode(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := x.runUntil(ctx, nil, "host", "list"); r.code != cli.Interrupted || r.out != "" || r.err != "loopback: interrupted\n" {
		t.Errorf("got %+v, want exit code 130 and one line", r)
	}
}

func TestTimeoutOfACall(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.mu.Lock() // nobody is answered
	defer p.mu.Unlock()
	begun := time.Now()
	x.fails(7, "did not answer in time", "--timeout", "host", "list", "--timeout", "200ms")
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("gave up after %s, want 200 ms", d)
	}
}

func TestReasonAndTicketAreSentWithWhateverIsDone(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	x.env["LOOPBACK_TICKET"] = "OPS-1"
	x.ok("host", "list", "--reason", "100% für den Bericht")
	if ticket, reason := p.header.Get("Loopback-Ticket"), p.header.Get("Loopback-Reason"); ticket != "OPS-1" || reason != "100%25%20f%C3%BCr%20den%20Bericht" {
		t.Errorf("sent %q and %q", ticket, reason)
	}
	x.ok("host", "list", "--ticket", "OPS-2")
	if ticket := p.header.Get("Loopback-Ticket"); ticket != "OPS-2" {
		t.Errorf("the flag does not win: %q", ticket)
	}
}
