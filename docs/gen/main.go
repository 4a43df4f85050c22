// Gen writes the reference of the command line: one page for each noun of loopback, and an index.
//
// The pages come from the command tree itself and hold neither dates nor versions, so that the same tree always gives the
// same pages. A page whose noun is gone is removed. What it cannot write ends it with an error.
package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/cli"
)

//go:generate go run . ../cli

const header = "<!-- Written by go generate ./docs/gen from the command tree; edit package cli. -->\n"

func main() {
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(dir string) error {
	root := cli.Root()
	pages := map[string]string{"README.md": index(root)}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			pages[c.Name()+".md"] = page(c)
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if _, ok := pages[filepath.Base(name)]; !ok {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func index(root *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s# loopback\n\n%s\n\n| command | what it is |\n| --- | --- |\n", header, root.Long)
	for _, c := range byName(root.Commands()) {
		fmt.Fprintf(&b, "| [`%s`](%s.md) | %s |\n", c.Name(), c.Name(), cell(c.Short))
	}
	b.WriteString("\n## Flags of every command\n\n")
	b.WriteString(flags(root.PersistentFlags()))
	return b.String()
}

func page(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s# loopback %s\n\n", header, c.Name())
	if !c.HasSubCommands() {
		command(&b, c)
	} else {
		fmt.Fprintf(&b, "%s\n", cmp.Or(c.Long, c.Short))
		for _, verb := range byName(c.Commands()) {
			if verb.HasSubCommands() {
				for _, one := range byName(verb.Commands()) {
					fmt.Fprintf(&b, "\n## %s %s %s\n\n", c.Name(), verb.Name(), one.Name())
					command(&b, one)
				}
				continue
			}
			fmt.Fprintf(&b, "\n## %s %s\n\n", c.Name(), verb.Name())
			command(&b, verb)
		}
	}
	b.WriteString("\nFlags of every command are in [the index](README.md#flags-of-every-command).\n")
	return b.String()
}

func command(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "%s\n\n    %s\n", cmp.Or(c.Long, c.Short), strings.TrimSuffix(c.UseLine(), " [flags]"))
	if c.LocalNonPersistentFlags().HasAvailableFlags() {
		fmt.Fprintf(b, "\n%s", flags(c.LocalNonPersistentFlags()))
	}
	if c.Example != "" {
		b.WriteString("\n```sh\n")
		for line := range strings.SplitSeq(c.Example, "\n") {
			b.WriteString(strings.TrimPrefix(line, "  ") + "\n")
		}
		b.WriteString("```\n")
	}
}

func flags(set *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| flag | meaning |\n| --- | --- |\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, text := cli.FlagUsage(f)
		name := strings.TrimSpace("--" + f.Name + " " + value)
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, cell(text))
	})
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func byName(commands []*cobra.Command) []*cobra.Command {
	commands = slices.DeleteFunc(slices.Clone(commands), func(c *cobra.Command) bool { return !c.IsAvailableCommand() || c.Name() == "help" })
	slices.SortFunc(commands, func(x, y *cobra.Command) int { return strings.Compare(x.Name(), y.Name()) })
	return commands
}
