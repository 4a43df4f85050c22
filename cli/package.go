package cli

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/pack"
	"github.com/loopbackd/loopback/release/publish"
	"github.com/loopbackd/loopback/release/sbom"
	"github.com/loopbackd/loopback/trust"
)

// packed is a file that was made.
type packed struct {
	File   string `json:"file"`
	Format string `json:"format"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

func (a *app) releasePackage() *cobra.Command {
	var version, keys, root, anchor, ca string
	agent := pack.Agent{}
	c := &cobra.Command{
		Use: "package --version VERSION --keys FOLDER FOLDER", Short: "Make deb, rpm and a list of parts beside each program",
		Long: `Make deb, rpm and a list of parts beside each program.

The folder holds one folder a platform, each with the programs for it: linux-amd64/loopback-agent. Beside each program comes
the list of what it was built from (CycloneDX), beside the agent its packages. Publish the folder again afterwards, and the
control plane serves them. Neither packaging tools nor a control plane are needed.

A package holds the root that the agent verifies releases by: the newest in the folder of keys, or --root. Hosts of a
package that was made with --endpoint and --anchor need no more than a token.

The same programs give the same files. Their time is SOURCE_DATE_EPOCH, else when the program's source was committed.`,
		Example: "  loopback release package --version 1.2.3 --keys ~/release-keys dist/",
		Args:    args("FOLDER"),
		RunE: func(_ *cobra.Command, w []string) (err error) {
			if !release.ValidVersion(version) {
				return usage("--version is %q, not a version like 1.2.3", version)
			}
			if agent.Root, err = rootFor(keys, root); err != nil {
				return err
			}
			if anchor != "" {
				b, err := hex.DecodeString(anchor)
				if err != nil || len(b) != len(trust.AnchorHash{}) {
					return usage("--anchor is not %d hexadecimal digits", 2*len(trust.AnchorHash{}))
				}
				agent.Anchor = trust.AnchorHash(b)
			}
			if ca != "" {
				if agent.CA, err = os.ReadFile(ca); err != nil {
					return fault.New(fault.Invalid, "file_unreadable", "the CA of --agent-ca-file cannot be read").WithCause(err)
				}
			}
			if agent.Time, err = sourceDate(a.Getenv("SOURCE_DATE_EPOCH")); err != nil {
				return err
			}
			made, err := packAll(w[0], version, agent)
			if err != nil {
				return err
			}
			if a.flags.output != "table" {
				b, err := json.Marshal(map[string]any{"items": made})
				if err != nil {
					return err
				}
				return a.printJSON(b)
			}
			return table(a, made, []column[packed]{{"FILE", func(p packed) string { return p.File }}, {"SIZE", func(p packed) string { return bytesize(p.Length) }},
				{"SHA-256", func(p packed) string { return p.SHA256 }}})
		},
	}
	f := c.Flags()
	f.StringVar(&version, "version", "", "`VERSION` of the programs: 1.2.3")
	f.StringVar(&keys, "keys", "", "`FOLDER` of the release keys, for the newest root in it")
	f.StringVar(&root, "root", "", "`FILE` with the releases' root, where the keys are elsewhere")
	f.StringVar(&agent.Endpoint, "endpoint", "", "`URL` of the control plane that the packages are for")
	f.StringVar(&anchor, "anchor", "", "`HEX` of the anchor that agents trust; it is in the install script and in agent.yaml")
	f.StringVar(&ca, "agent-ca-file", "", "PEM `FILE` that agents check the control plane's certificate by")
	return c
}

// rootFor reads the root that a package brings.
func rootFor(keys, file string) ([]byte, error) {
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.New(fault.Invalid, "file_unreadable", "the root cannot be read").WithCause(err)
		}
		return b, nil
	case keys == "":
		return nil, usage("--keys is missing: the folder of the release keys; or give --root")
	}
	k, err := publish.Open(keys)
	if err != nil {
		return nil, err
	}
	return k.Root()
}

// sourceDate reads what reproducible-builds.org specifies; zero where it is not set.
func sourceDate(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, usage("SOURCE_DATE_EPOCH is %q, not a number of seconds", s)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// packAll makes what goes beside the programs of a folder.
func packAll(dir, version string, agent pack.Agent) ([]packed, error) {
	found, err := programs(dir, version, release.Stable)
	if err != nil {
		return nil, err
	}
	made := []packed{}
	for _, p := range found {
		if p.Format != release.FormatProgram {
			continue // of an earlier run
		}
		program, err := os.ReadFile(p.File)
		if err != nil {
			return nil, fault.New(fault.Invalid, "artefact_unreadable", "the program cannot be read").WithCause(err)
		}
		parts, err := sbom.Of(program, p.Name, version)
		if err != nil {
			return nil, err
		}
		files := map[string][]byte{release.FormatSBOM: parts}
		if p.Name == release.Agent && p.OS == "linux" {
			of := agent
			of.Program, of.Version, of.Architecture = program, version, p.Architecture
			about, err := of.Package()
			if err != nil {
				return nil, err
			}
			for _, format := range []string{release.FormatDeb, release.FormatRPM} {
				var out bytes.Buffer
				if err := about.Write(&out, format); err != nil {
					return nil, fmt.Errorf("make the %s of %s: %w", format, p.File, err)
				}
				files[format] = out.Bytes()
			}
		}
		for format, body := range files {
			file := filepath.Join(filepath.Dir(p.File), release.FileName(p.Name, version, p.Architecture, format))
			if err := durable.WriteFile(file, body, 0o644); err != nil {
				return nil, fmt.Errorf("write %s: %w", file, err)
			}
			sum := sha256.Sum256(body)
			made = append(made, packed{file, format, int64(len(body)), hex.EncodeToString(sum[:])})
		}
	}
	slices.SortFunc(made, func(a, b packed) int { return cmp.Compare(a.File, b.File) })
	return made, nil
}

// formatOf tells a program from what goes with it by the file's name, and the program's name.
func formatOf(file, version, arch string) (name, format string, err error) {
	base := filepath.Base(file)
	name, format = base, release.FormatProgram
	switch {
	case strings.HasSuffix(base, ".deb"):
		name, _, _ = strings.Cut(base, "_")
		format = release.FormatDeb
	case strings.HasSuffix(base, ".rpm"):
		name, format = strings.TrimSuffix(base, release.FileName("", version, arch, release.FormatRPM)), release.FormatRPM
	case strings.HasSuffix(base, "."+release.FormatSBOM):
		name, format = strings.TrimSuffix(base, "."+release.FormatSBOM), release.FormatSBOM
	}
	if want := release.FileName(name, version, arch, format); want != base {
		return "", "", usage("%s is not of version %s for %s: it would be called %s", file, version, arch, want)
	}
	return name, format, nil
}
