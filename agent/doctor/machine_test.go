package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

// wholeMachine is the root of a machine on which everything is where the installer puts it.
func wholeMachine(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{current: 0o755, unit: 0o644, enabled: 0o644, manager + "/x": 0o644} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheMachineIsLookedAt(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(root string) error
		code  string
	}{
		"all there":                  {func(string) error { return nil }, "ok"},
		"no program":                 {func(root string) error { return os.Chmod(filepath.Join(root, current), 0o644) }, "program_missing"},
		"put there by hand":          {func(root string) error { return os.RemoveAll(filepath.Join(root, "opt")) }, "skipped"},
		"no systemd":                 {func(root string) error { return os.RemoveAll(filepath.Join(root, manager)) }, "systemd_missing"},
		"no unit":                    {func(root string) error { return os.Remove(filepath.Join(root, unit)) }, "unit_missing"},
		"a unit that is not enabled": {func(root string) error { return os.Remove(filepath.Join(root, enabled)) }, "unit_disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			root := wholeMachine(t)
			if err := test.spoil(root); err != nil {
				t.Fatal(err)
			}
			worst := "ok"
			for _, c := range checkMachine(root) {
				if c.Outcome != OK {
					worst = c.Code
				}
			}
			if worst != test.code {
				t.Errorf("got %s, want %s", worst, test.code)
			}
		})
	}
}

func TestLabelsThatSystemdMayNotExecuteAreNamed(t *testing.T) {
	for label, want := range map[string]string{
		"system_u:object_r:bin_t:s0":             "ok",
		"system_u:object_r:usr_t:s0":             "ok",
		"unconfined_u:object_r:user_home_t:s0":   "selinux_label",
		"unconfined_u:object_r:user_tmp_t:s0":    "selinux_label",
		"system_u:object_r:unlabeled_t:s0:c1,c2": "selinux_label",
	} {
		if got := judgeLabel("/opt/loopback/x", label); got.Code != want {
			t.Errorf("%s: got %s, want %s", label, got.Code, want)
		}
	}
	if _, on := checkSELinux(filepath.Join(t.TempDir(), "enforce"), "x"); on {
		t.Error("a machine without SELinux has a check of it")
	}
}
