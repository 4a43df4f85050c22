package controlplane

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Programs is the folder with loopbackd, loopback and agents/VERSION/linux-ARCH/loopback-agent, built from this tree.
func Programs(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

func build() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "e2e")
	compile := func(program, version, to string) error {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", to, "./cmd/"+program)
		c.Dir, c.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
		return nil
	}
	for _, program := range []string{"loopbackd", "loopback"} {
		if err := compile(program, Stable, filepath.Join(dir, program)); err != nil {
			return "", err
		}
	}
	for _, version := range []string{Stable, Preview} {
		to := filepath.Join(dir, "agents", version, "linux-"+runtime.GOARCH, "loopback-agent")
		if err := compile("loopback-agent", version, to); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod above %s", dir)
		}
	}
}
