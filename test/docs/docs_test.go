// Package docs proves that the documentation says what the programs do: links lead somewhere, command lines parse, the
// tables of settings and error codes are those of the code.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/agent/command"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/server/config"
)

const root = "../.."

// pages are README.md and all below docs, by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	read := func(p string) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(root, p)
		out[rel] = string(b)
	}
	read(filepath.Join(root, "README.md"))
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".md") {
			read(p)
		}
		return err
	})
	if err != nil || len(out) < 10 {
		t.Fatalf("%d pages, %v", len(out), err)
	}
	return out
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestEveryRelativeLinkLeadsSomewhere(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			target := page
			if to != "" {
				target = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			} else if anchor != "" && !slices.Contains(headings(all[target]), anchor) {
				t.Errorf("%s: the link to %s names a heading that is not there", page, m[1])
			}
		}
	}
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// headings as anchors, as GitHub makes them.
func headings(text string) (out []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			out = append(out, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
		}
	}
	return out
}

// line is a command line in a page. A short one stands in a sentence or table, and may leave its arguments out.
type line struct {
	at    string
	words []string
	short bool
}

var (
	code    = regexp.MustCompile("`([^`]+)`")
	program = regexp.MustCompile(`^(?:(?:sudo|export|[A-Z_]+=\S*) )*(?:\S*/)?(loopback|loopbackd|loopback-agent)( .*)$`)
)

func lines(t *testing.T) (out []line) {
	for page, text := range pages(t) {
		fence := ""
		for i, l := range strings.Split(text, "\n") {
			at := fmt.Sprintf("%s:%d", page, i+1)
			if after, ok := strings.CutPrefix(strings.TrimSpace(l), "```"); ok {
				if fence == "" {
					fence = "```" + after
				} else {
					fence = ""
				}
				continue
			}
			switch {
			case fence == "```sh":
				for _, part := range commands(l) {
					out = append(out, take(at, part, false)...)
				}
			case fence == "":
				for _, m := range code.FindAllStringSubmatch(l, -1) {
					if strings.HasPrefix(m[1], "loopback") || strings.Contains(m[1], "$(loopback") {
						for _, part := range commands(m[1]) {
							out = append(out, take(at, part, true)...)
						}
					}
				}
			}
		}
	}
	return out
}

func take(at, text string, short bool) []line {
	m := program.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return nil
	}
	return []line{{at, append([]string{m[1]}, words(m[2])...), short}}
}

// commands of a line of shell: what quotes do not protect from ; & | > ( ) # ends one.
func commands(l string) (out []string) {
	start, quote := 0, rune(0)
	for i, r := range l {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == '#' && (i == 0 || l[i-1] == ' '):
			return append(out, l[start:i])
		case strings.ContainsRune(";&|>()", r):
			out = append(out, l[start:i])
			start = i + 1
		}
	}
	return append(out, l[start:])
}

func words(l string) (out []string) {
	var b strings.Builder
	quote, some := rune(0), false
	for _, r := range l + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, some = r, true
		case quote == 0 && r == ' ':
			if some {
				out = append(out, b.String())
			}
			b.Reset()
			some = false
		default:
			b.WriteRune(r)
			some = true
		}
	}
	return out
}

func TestEveryCommandLineParses(t *testing.T) {
	seen := map[string]int{}
	for _, l := range lines(t) {
		name, args := l.words[0], l.words[1:]
		seen[name]++
		if len(args) > 0 && (args[0] == "…" || args[0] == "NOUN" || strings.HasPrefix(args[0], ".")) {
			continue
		}
		var err error
		switch name {
		case "loopback":
			err = client(args, l.short)
		case "loopbackd":
			err = other(args, daemonHelp)
		case "loopback-agent":
			err = other(args, agentHelp)
		}
		if err != nil {
			t.Errorf("%s: %s: %v", l.at, strings.Join(l.words, " "), err)
		}
	}
	for name, least := range map[string]int{"loopback": 40, "loopbackd": 5, "loopback-agent": 8} {
		if seen[name] < least {
			t.Errorf("got %d command lines of %s; the pages have at least %d", seen[name], name, least)
		}
	}
}

func client(args []string, short bool) error {
	c, rest, err := cli.Root().Find(args)
	if err != nil {
		return err
	}
	if c.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("there is no %q", rest[0])
	}
	if c.HasSubCommands() && !short && !slices.Contains(rest, "--help") {
		return fmt.Errorf("it lacks a verb")
	}
	if err := c.ParseFlags(rest); err != nil && err != pflag.ErrHelp {
		return err
	}
	if help := c.Flags().Lookup("help"); short || help != nil && help.Changed {
		return nil
	}
	return c.ValidateArgs(c.Flags().Args())
}

var flagName = regexp.MustCompile(`^--?([a-z][a-z-]*)`)

// other checks verb and flags by what the program's own help lists.
func other(args []string, help func(verbs ...string) (string, error)) error {
	if len(args) == 0 || args[0] == "help" || strings.HasPrefix(args[0], "-") {
		return nil
	}
	text, err := help(args[0])
	if err != nil {
		return fmt.Errorf("there is no %q: %w", args[0], err)
	}
	if strings.Contains(text, "Available Commands:") && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		verb := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(args[1]) + ` `)
		if !verb.MatchString(text) { // cobra answers an unknown one with the help of its parent
			return fmt.Errorf("there is no %q", args[0]+" "+args[1])
		}
		if text, err = help(args[:2]...); err != nil {
			return fmt.Errorf("there is no %q: %w", args[0]+" "+args[1], err)
		}
	}
	for _, a := range args[1:] {
		if m := flagName.FindStringSubmatch(a); m != nil && m[1] != "help" {
			if !regexp.MustCompile(`(?m)(^|[\s,\[])--?` + m[1] + `\b([^-]|$)`).MatchString(text) {
				return fmt.Errorf("there is no flag %s", m[0])
			}
		}
	}
	return nil
}

func agentHelp(verbs ...string) (string, error) {
	var out bytes.Buffer
	env := command.Environment{Version: "0", Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard, Getenv: func(string) string { return "" }}
	if exit := command.Main(context.Background(), env, append(slices.Clone(verbs), "--help")); exit != 0 {
		return "", fmt.Errorf("exit code %d", exit)
	}
	return out.String(), nil
}

var daemon = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "loopbackd-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "loopbackd")
	if out, err := exec.Command("go", "build", "-o", name, root+"/cmd/loopbackd").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	exit := m.Run()
	if name, err := daemon(); err == nil {
		_ = os.RemoveAll(filepath.Dir(name))
	}
	os.Exit(exit)
}

func daemonHelp(verbs ...string) (string, error) {
	name, err := daemon()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(name, append(slices.Clone(verbs), "--help")...).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "loopbackd "+strings.Join(verbs, " ")) {
		err = fmt.Errorf("its help is another's")
	}
	return string(out), err
}

func guide(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs/guides", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var settingRow = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|.*\\|([^|]*)\\|$")

func TestTheTableOfSettingsIsThatOfTheProgram(t *testing.T) {
	_, text, _ := strings.Cut(guide(t, "operate.md"), "## Settings")
	text, _, _ = strings.Cut(text, "\n## ")
	listed := map[string]string{}
	for _, m := range settingRow.FindAllStringSubmatch(text, -1) {
		listed[m[1]] = strings.Trim(m[2], "` ")
	}
	var s config.Settings
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	s.Register(f)
	f.VisitAll(func(fl *pflag.Flag) {
		preset, ok := listed[fl.Name]
		delete(listed, fl.Name)
		if !ok {
			t.Errorf("operate.md does not list %s", fl.Name)
		} else if fl.DefValue != "" && fl.DefValue != "[]" && preset != fl.DefValue {
			t.Errorf("operate.md says that the default of %s is %q; it is %q", fl.Name, preset, fl.DefValue)
		}
	})
	for name := range listed {
		t.Errorf("operate.md lists %s, which is not a setting", name)
	}
}

var (
	thrown   = regexp.MustCompile(`(?:fault\.New\(fault\.\w+, |Code: +)"([a-z]+(?:_[a-z]+)+)"`)
	codeWord = regexp.MustCompile("`([a-z]+(?:_[a-z]+)+)`")
)

// ours are codes that no host meets: the control plane's own, and mistakes in calls.
var ours = []string{"copy_ambiguous", "copy_not_found", "generation_wrong", "host_not_cloned", "key_not_offered", "links_open", "network_invalid", "observations_lost", "section_encoding"}

// What the guide lists exists, and what a host can meet is listed, with what was seen and what to change.
func TestTheErrorCodesAreThoseOfTheCode(t *testing.T) {
	codes := map[string]bool{}
	for _, dir := range []string{"agent", "wire", "trust", "token", "host", "server/link"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			b, err := os.ReadFile(p)
			for _, m := range thrown.FindAllStringSubmatch(string(b), -1) {
				codes[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	listed := map[string]bool{}
	for l := range strings.SplitSeq(guide(t, "troubleshooting.md"), "\n") {
		cells := strings.Split(l, "|")
		if len(cells) < 2 {
			continue
		}
		for _, m := range codeWord.FindAllStringSubmatch(cells[1], -1) {
			listed[m[1]] = true
			if !codes[m[1]] {
				t.Errorf("troubleshooting.md lists %s, which nothing reports", m[1])
			}
			if len(cells) != 5 || len(strings.TrimSpace(cells[2])) < 10 || len(strings.TrimSpace(cells[3])) < 7 {
				t.Errorf("troubleshooting.md does not say what is seen of %s and what to change", m[1])
			}
		}
	}
	for c := range codes {
		if !listed[c] && !slices.Contains(ours, c) {
			t.Errorf("troubleshooting.md does not list %s", c)
		}
	}
	for _, c := range ours {
		if !codes[c] {
			t.Errorf("the code %s is excused and is not there", c)
		}
	}
}
