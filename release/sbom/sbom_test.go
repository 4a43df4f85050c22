package sbom_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release/sbom"
)

const module = "github.com/loopbackd/loopback"

// list is what a reader of the document looks at.
type list struct {
	BOMFormat, SpecVersion string
	Metadata               struct {
		Component struct {
			Name, Version string
			Hashes        []struct{ Alg, Content string }
		}
	}
	Components []struct{ Name, Version, PURL string }
}

// Every module that the toolchain finds in a program, and every one that its packages come from, is on its list.
func TestEveryModuleIsNamed(t *testing.T) {
	for _, program := range []string{"loopback-agent", "loopback", "loopbackd"} {
		t.Run(program, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), program)
			goTool(t, "build", "-trimpath", "-ldflags", "-s -w", "-o", file, module+"/cmd/"+program)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := sbom.Of(b, program, "1.2.3")
			if err != nil {
				t.Fatal(err)
			}
			var got list
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			about := got.Metadata.Component
			if got.BOMFormat != "CycloneDX" || got.SpecVersion != "1.5" || about.Name != program || about.Version != "1.2.3" || len(about.Hashes) != 1 || len(about.Hashes[0].Content) != 64 {
				t.Errorf("got %+v", about)
			}
			named := map[string]bool{}
			for _, c := range got.Components {
				named[c.Name+"@"+c.Version] = true
				if !strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@") {
					t.Errorf("%s has the package URL %q", c.Name, c.PURL)
				}
			}
			linked := 0
			for line := range strings.Lines(goTool(t, "version", "-m", file)) {
				if f := strings.Fields(line); len(f) > 2 && f[0] == "dep" {
					linked++
					if !named[f[1]+"@"+f[2]] {
						t.Errorf("%s %s is in the program and not on the list", f[1], f[2])
					}
				}
			}
			for line := range strings.Lines(goTool(t, "list", "-deps", "-f", "{{with .Module}}{{.Path}}@{{.Version}}{{end}}", module+"/cmd/"+program)) {
				if line = strings.TrimSpace(line); line != "" && line != module+"@" && !named[line] {
					t.Errorf("packages of %s are compiled in and it is not on the list", line)
				}
			}
			if linked < 5 || len(named) != linked+1 {
				t.Errorf("got %d names for %d modules, wanted those and the standard library", len(named), linked)
			}
			if again, err := sbom.Of(b, program, "1.2.3"); err != nil || !bytes.Equal(text, again) {
				t.Errorf("the same program gives another list, %v", err)
			}
		})
	}
}

func TestWhatSaysNothingIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{"text": []byte("#!/bin/sh\n"), "nothing": nil, "cut off": []byte("\x7fELF\x02\x01\x01")} {
		if _, err := sbom.Of(b, "x", "1.0.0"); fault.Of(err).Code != "program_unknown" {
			t.Errorf("%s: got %v, wanted program_unknown", name, err)
		}
	}
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.Command("go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go %v: %v", args, err)
	}
	return string(out)
}
