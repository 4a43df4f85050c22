// Package sbom lists what a Go program was built from, by what its linker wrote into it, as CycloneDX 1.5 has it
// (cyclonedx.org). The same program gives the same bytes. A program that says nothing of its modules is an error: a list
// that may be short of something is worse than none.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/fault"
)

type document struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component  component  `json:"component"`
	Properties []property `json:"properties,omitempty"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// Of describes a program of this name and version.
func Of(program []byte, name, version string) ([]byte, error) {
	about, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil || about.Main.Path == "" {
		return nil, fault.New(fault.Invalid, "program_unknown", "%s does not say what it was built from", name).
			WithHint("only Go programs do, and only those that were not stripped of their build information").WithCause(err)
	}
	sum := sha256.Sum256(program)
	main := component{
		Type: "application", Ref: name, Name: name, Version: version, PURL: purl(about.Main.Path, version),
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
	}
	d := document{Format: "CycloneDX", Spec: "1.5", Serial: serial(sum), Version: 1, Metadata: metadata{Component: main}}
	for _, s := range about.Settings {
		if s.Key == "GOOS" || s.Key == "GOARCH" || s.Key == "CGO_ENABLED" || s.Key == "vcs.revision" || s.Key == "-trimpath" {
			d.Metadata.Properties = append(d.Metadata.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	toolchain := strings.TrimPrefix(about.GoVersion, "go")
	d.Components = append(d.Components, component{Type: "library", Ref: "std", Name: "std", Version: toolchain, PURL: purl("std", toolchain)})
	for _, m := range about.Deps {
		d.Components = append(d.Components, library(m))
	}
	slices.SortFunc(d.Components, func(a, b component) int { return strings.Compare(a.Ref, b.Ref) })
	uses := dependency{Ref: main.Ref}
	for _, c := range d.Components {
		uses.DependsOn = append(uses.DependsOn, c.Ref)
	}
	d.Dependencies = []dependency{uses}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(d)
	return out.Bytes(), err
}

// library is a module as it was linked: what replaced it counts.
func library(m *debug.Module) component {
	was := m
	if m.Replace != nil {
		m = m.Replace
	}
	c := component{Type: "library", Ref: purl(m.Path, m.Version), Name: m.Path, Version: m.Version, PURL: purl(m.Path, m.Version)}
	if m.Sum != "" {
		c.Properties = append(c.Properties, property{"go:sum", m.Sum})
	}
	if was != m {
		c.Properties = append(c.Properties, property{"go:replaces", was.Path + "@" + was.Version})
	}
	return c
}

// purl is a package URL (github.com/package-url/purl-spec, type golang).
func purl(path, version string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	out := "pkg:golang/" + strings.Join(parts, "/")
	if version != "" {
		out += "@" + url.QueryEscape(version)
	}
	return out
}

// serial is a UUID of version 8 (RFC 9562) made of the program's hash.
func serial(sum [sha256.Size]byte) string {
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
