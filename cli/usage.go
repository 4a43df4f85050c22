package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// writeUsage is how a command is used. Cobra's own also names commands that a noun cannot run, and flags' Go types.
func writeUsage(c *cobra.Command) error {
	var b strings.Builder
	line := c.CommandPath()
	if c.HasParent() {
		line = c.Parent().CommandPath() + " " + c.Use
	}
	switch {
	case !c.HasParent():
		line += " NOUN VERB [flags]"
	case c.HasSubCommands():
		line += " VERB [flags]"
	default:
		line += " [flags]"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", line)
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		var rows [][2]string
		for _, one := range c.Commands() {
			if one.IsAvailableCommand() {
				rows = append(rows, [2]string{"  " + one.Name(), one.Short})
			}
		}
		align(&b, rows)
	}
	if rows := flagRows(c.LocalFlags()); len(rows) > 0 {
		b.WriteString("\nFlags:\n")
		align(&b, rows)
	}
	if rows := flagRows(c.InheritedFlags()); len(rows) > 0 {
		b.WriteString("\nFlags of every command:\n")
		align(&b, rows)
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n%s COMMAND --help says more about a command.\n", c.CommandPath())
	}
	_, err := io.WriteString(c.OutOrStderr(), b.String())
	return err
}

func align(w io.Writer, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-*s  %s\n", width, r[0], r[1])
	}
}

// flagRows are the flags with what they take, each with its meaning and default.
func flagRows(f *pflag.FlagSet) (rows [][2]string) {
	f.VisitAll(func(one *pflag.Flag) {
		if one.Hidden {
			return
		}
		name := "      --" + one.Name
		if one.Shorthand != "" {
			name = "  -" + one.Shorthand + ", --" + one.Name
		}
		takes, text := FlagUsage(one)
		if takes != "" {
			name += " " + takes
		}
		rows = append(rows, [2]string{name, text})
	})
	return rows
}

// FlagUsage is the name of what a flag takes, empty for a switch, and what the flag means, its default included.
func FlagUsage(f *pflag.Flag) (takes, text string) {
	takes, text = pflag.UnquoteUsage(f)
	if f.Name == "help" {
		text = "show this help"
	}
	if !strings.Contains(f.Usage, "`") {
		takes = map[string]string{
			"bool": "", "string": "TEXT", "stringSlice": "LIST", "int": "NUMBER", "int32": "NUMBER", "duration": "DURATION", "time": "TIME",
		}[f.Value.Type()]
	}
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
	default:
		text += " (default " + f.DefValue + ")"
	}
	return takes, text
}

// synonyms of nouns and verbs that people bring from elsewhere.
var synonyms = map[string][]string{
	"list": {"ls", "get"}, "show": {"get", "describe", "info", "inspect", "view"},
	"mint": {"create", "new", "add", "make"}, "create": {"new", "add", "make"}, "add": {"create", "new"},
	"remove": {"rm", "delete", "del", "expel"}, "delete": {"rm", "remove", "del"}, "revoke": {"rm", "remove", "delete", "del"},
	"update": {"edit", "set", "change"}, "set": {"edit", "update", "change"}, "tail": {"follow", "watch"}, "use": {"switch", "select"},
	"org": {"organisation", "organisations", "organization", "organizations"}, "operation": {"op", "ops", "job", "jobs"},
	"apikey": {"api-key", "api-keys", "key", "keys"}, "workspace": {"ws"}, "host": {"agent", "agents", "server", "servers", "node", "nodes"},
	"login": {"signin", "sign-in", "auth"}, "context": {"config", "contexts"}, "audit": {"log", "logs"},
}

// suggest prepares every command to be found by words that are nearly its name.
func suggest(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	for _, one := range c.Commands() {
		one.SuggestFor = synonyms[one.Name()]
		suggest(one)
	}
}

// unknownVerb refuses words that are no command of a noun, and names the nearest that is.
func unknownVerb(c *cobra.Command, words []string) error {
	if len(words) == 0 {
		return nil
	}
	e := usageError{err: fmt.Errorf("unknown command %q for %q", words[0], c.CommandPath()), hint: c.CommandPath() + " --help lists what there is"}
	near := slices.Compact(c.SuggestionsFor(words[0])) // a command of two reasons comes twice
	for i, name := range near {
		if near[i] = c.CommandPath() + " " + name; i == len(near)-1 {
			e.hint = "did you mean: " + strings.Join(near, ", or ")
		}
	}
	return e
}

// flagError explains what is wrong with a flag. Behind a command that does not exist every flag is unknown: then the
// command is the mistake.
func (a *app) flagError(c *cobra.Command, err error) error {
	if c.HasSubCommands() {
		if _, rest, found := c.Root().Find(a.words); found == nil {
			if i := slices.IndexFunc(rest, func(w string) bool { return !strings.HasPrefix(w, "-") }); i >= 0 {
				return unknownVerb(c, rest[i:])
			}
		}
	}
	e := usageError{err: err}
	name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !unknown {
		return e
	}
	best := 3 // as far as a slip of the fingers goes
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := distance(name, f.Name); d < best {
			best, e.hint = d, "did you mean: --"+f.Name
		}
	})
	return e
}

// distance is how many letters have to be put in, left out or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			changed := diagonal
			if a[i-1] != b[j-1] {
				changed++
			}
			diagonal = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, changed)
		}
	}
	return row[len(b)]
}
