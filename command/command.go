// Package command is commands that are run without the right to run any command: those that one operator saved and another
// approved, and checks, which are built in.
//
//	save ──▶ pending ──approve, by somebody else──▶ approved ──a later version is approved──▶ replaced
//
// A version never changes: what is approved is what was looked at, and another word in it is another version, which waits for an
// approval of its own while the one before goes on being run. Where an argument holds "{name}" of a parameter, whoever runs the
// command says what stands there; the whole of that matches the parameter's pattern. No shell looks at it.
package command

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over saved commands and checks. To approve one is to lend the right to run any command for what it does, so it is of
// tier 0, as that is.
const (
	Save    access.Permission = "commands.save"
	Approve access.Permission = "commands.approve"
	Read    access.Permission = "commands.read"
	Delete  access.Permission = "commands.delete"
	Run     access.Permission = "commands.run"
	RunOne  access.Permission = "checks.run"
)

// Bounds.
const (
	MaxParameters = 20
	MaxPattern    = 200 // bytes
	MaxValue      = 1024
)

// State of a version.
type State string

// The states.
const (
	Pending  State = "pending"
	Approved State = "approved"
	Replaced State = "replaced"
)

// Parameter is what whoever runs a command fills in.
type Parameter struct {
	Name        string `json:"name"`
	Pattern     string `json:"pattern"` // RE2, of the whole value
	Description string `json:"description,omitempty"`
}

// Saved is one version of a command. Its Meta.Name is the command's.
type Saved struct {
	tenant.Meta
	Scope       access.Scope
	Description string
	Version     int
	Command     exec.Command
	Parameters  []Parameter
	State       State
	By          string // principal
	ByName      string
	ApprovedBy  string
	Approver    string // their name
	ApprovedAt  time.Time
}

// Title is how a run names it.
func (s Saved) Title() string { return fmt.Sprintf("%s (version %d)", s.Name, s.Version) }

var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// Validate collects what is wrong with what is to be saved.
func (s Saved) Validate() error {
	var c fault.Check
	tenant.CheckName(&c, "name", s.Name)
	c.That(len(s.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(s.Description), tenant.MaxDescription)
	c.That(len(s.Command.Stdin) == 0, "command.stdin", "is set; a saved command has no standard input")
	s.Command.Check(&c)
	c.That(len(s.Parameters) <= MaxParameters, "parameters", "are %d; at most %d are allowed", len(s.Parameters), MaxParameters)
	c.That(!s.Command.Shell || len(s.Parameters) == 0, "parameters", "are declared for a line that a shell reads: a value could be any command there; give the arguments one by one")
	seen := map[string]bool{}
	for i, p := range s.Parameters {
		field := fmt.Sprintf("parameters[%d]", i)
		c.That(parameterName.MatchString(p.Name), field+".name", "is %q, not lower-case letters, digits and '_'", p.Name)
		c.That(!seen[p.Name], field+".name", "is %q for the second time", p.Name)
		c.That(len(p.Description) <= tenant.MaxDescription, field+".description", "is too long")
		seen[p.Name] = true
		_, err := regexp.Compile(p.Pattern)
		c.That(err == nil && p.Pattern != "" && len(p.Pattern) <= MaxPattern, field+".pattern", "is %q, not a pattern (RE2) of at most %d bytes", p.Pattern, MaxPattern)
		used := false
		for j, a := range s.Command.Arguments {
			holds := strings.Contains(a, p.placeholder())
			c.That(!holds || j > 0, field, "stands in the program's own name")
			used = used || holds
		}
		c.That(used, field, "stands in no argument; write %s where its value goes", p.placeholder())
	}
	return c.Err("command_invalid", "the command is not valid")
}

func (p Parameter) placeholder() string { return "{" + p.Name + "}" }

// With is the command with the values of its parameters in it.
func (s Saved) With(values map[string]string) (exec.Command, error) {
	var c fault.Check
	known := map[string]bool{}
	var pairs []string
	for _, p := range s.Parameters {
		known[p.Name] = true
		v, given := values[p.Name]
		field := "values." + p.Name
		if !given {
			c.Add(field, "is missing; it has to match %s", p.Pattern)
			continue
		}
		whole, err := regexp.Compile("^(?:" + p.Pattern + ")$")
		c.That(err == nil && whole.MatchString(v), field, "is %q; its whole has to match %s", v, p.Pattern)
		c.That(len(v) <= MaxValue && utf8.ValidString(v) && !strings.ContainsRune(v, 0), field, "is longer than %d bytes, or no text", MaxValue)
		for _, a := range s.Command.Arguments {
			if strings.HasPrefix(a, p.placeholder()) && strings.HasPrefix(v, "-") {
				c.Add(field, "begins with '-': it would be an option")
				break
			}
		}
		pairs = append(pairs, p.placeholder(), v)
	}
	for name := range values {
		c.That(known[name], "values."+name, "is no parameter of the command")
	}
	out := s.Command
	put := strings.NewReplacer(pairs...) // once: a value that looks like a placeholder stays what it is
	out.Arguments = make([]string, len(s.Command.Arguments))
	for i, a := range s.Command.Arguments {
		out.Arguments[i] = put.Replace(a)
	}
	return out, c.Err("command_values_invalid", "the values do not fit the command")
}

// Query selects versions, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	Name     string // empty: all
	States   []State
	Current  bool   // of each name only the version that is run, or the newest where none is approved
	Search   string // in name and description
	Page     tenant.Page
}
