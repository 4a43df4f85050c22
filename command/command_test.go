package command

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	noun "github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/tenant"
)

func saved(arguments []string, parameters ...Parameter) Saved {
	return Saved{Meta: tenant.Meta{Name: "restart"}, Command: noun.Command{Arguments: arguments, Timeout: time.Minute}, Parameters: parameters}
}

var unit = Parameter{Name: "unit", Pattern: `[a-z]+(\.service)?`}

func TestWhatMayBeSaved(t *testing.T) {
	for _, c := range []struct {
		name string
		of   Saved
		want string // in the error; empty: it is valid
	}{
		{"without parameters", saved([]string{"systemctl", "restart", "nginx"}), ""},
		{"with one", saved([]string{"systemctl", "restart", "{unit}"}, unit), ""},
		{"in the middle of an argument", saved([]string{"journalctl", "--unit={unit}"}, unit), ""},
		{"that stands nowhere", saved([]string{"systemctl", "restart", "nginx"}, unit), "stands in no argument"},
		{"as the program", saved([]string{"{unit}"}, unit), "program's own name"},
		{"twice", saved([]string{"systemctl", "restart", "{unit}"}, unit, unit), "second time"},
		{"with no pattern", saved([]string{"systemctl", "{x}"}, Parameter{Name: "x"}), "not a pattern"},
		{"with a broken pattern", saved([]string{"systemctl", "{x}"}, Parameter{Name: "x", Pattern: "("}), "not a pattern"},
		{"nothing", saved(nil), "is empty"},
		{"in a shell", Saved{Meta: tenant.Meta{Name: "x"}, Command: noun.Command{Arguments: []string{"echo {unit}"}, Shell: true, Timeout: time.Minute}, Parameters: []Parameter{unit}}, "a shell reads"},
	} {
		err := c.of.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; wanted %q", c.name, err, c.want)
		}
	}
}

func TestValuesStandWhereTheirNamesDo(t *testing.T) {
	two := saved([]string{"cmd", "{a}", "--b={b}", "{c}{a}", "{A}"}, Parameter{Name: "a", Pattern: ".*"}, Parameter{Name: "b", Pattern: "[0-9]+"})
	for _, c := range []struct {
		name   string
		values map[string]string
		want   []string // nil: refused
	}{
		{"as they are", map[string]string{"a": "x y;$(z)", "b": "1"}, []string{"cmd", "x y;$(z)", "--b=1", "{c}x y;$(z)", "{A}"}},
		{"one that looks like a placeholder", map[string]string{"a": "{b}", "b": "1"}, []string{"cmd", "{b}", "--b=1", "{c}{b}", "{A}"}},
		{"missing", map[string]string{"a": "x"}, nil},
		{"of no parameter", map[string]string{"a": "x", "b": "1", "c": "1"}, nil},
		{"that matches in a part only", map[string]string{"a": "x", "b": "1\n2x"}, nil},
		{"that would be an option", map[string]string{"a": "--force", "b": "1"}, nil},
		{"with a NUL", map[string]string{"a": "x\x00", "b": "1"}, nil},
	} {
		got, err := two.With(c.values)
		if (err == nil) != (c.want != nil) || err == nil && !slices.Equal(got.Arguments, c.want) {
			t.Errorf("%s: got %q, %v; want %q", c.name, got.Arguments, err, c.want)
		}
	}
	if two.Command.Arguments[1] != "{a}" {
		t.Error("the saved command was changed")
	}
}

// TestChecksRunHere runs those whose programs are on this machine, and has each be there once, in order.
func TestChecksRunHere(t *testing.T) {
	for i, c := range Checks {
		if i > 0 && Checks[i-1].Name >= c.Name {
			t.Errorf("%s is not behind %s", c.Name, Checks[i-1].Name)
		}
		if err := (Saved{Meta: tenant.Meta{Name: c.Name}, Command: c.Command, Description: c.Description}).Validate(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		arguments := c.Command.Arguments
		if c.Command.Shell {
			arguments = []string{"/bin/sh", "-c", arguments[0]}
		}
		if _, err := exec.LookPath(arguments[0]); err != nil || slices.Contains([]string{"units", "time", "updates", "reboot"}, c.Name) {
			continue // it needs systemd, or takes its time: test/e2e runs it on a real host
		}
		if out, err := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c.Name, err, out)
		}
	}
}
