package pack

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/trust"
)

// Agent is what a package of the agent is made of.
type Agent struct {
	Program      []byte // as published
	Version      string
	Architecture string
	Root         []byte    // the releases' root
	Time         time.Time // zero: when the program's source was committed

	// What hosts begin with, for a package that is made for one control plane. All may be empty.
	Endpoint string
	Anchor   trust.AnchorHash
	CA       []byte // PEM
}

// unknownTime stands for programs that do not say what they were built from.
var unknownTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Package describes the agent's package.
func (a Agent) Package() (Package, error) {
	if err := a.check(); err != nil {
		return Package{}, err
	}
	p := Package{
		Name: release.Agent, Version: a.Version, Architecture: a.Architecture,
		Summary: "agent of a Loopback control plane",
		Description: `Keeps this host linked to a Loopback control plane, which then shows it,
configures it and, as far as /etc/loopback/agent.yaml allows, operates it.

After installing: loopback-agent install --endpoint URL --token-file FILE`,
		Homepage: "https://github.com/loopbackd/loopback", Licence: "Apache-2.0",
		Maintainer: "Loopback <packages@loopback.invalid>", Requires: []string{"systemd"}, Time: a.Time.UTC(),
		Files: []File{
			{Path: packaged.Program, Mode: 0o755, Body: a.Program},
			{Path: packaged.Link, Mode: fs.ModeSymlink, Link: packaged.Running},
			{Path: packaged.Unit, Mode: 0o644, Body: []byte(packaged.UnitText(packaged.Running))},
			{Path: packaged.Root, Mode: 0o644, Body: a.Root},
			{Path: packaged.Settings, Mode: 0o644, Body: a.settings()},
			{Path: "/usr/share/doc/" + release.Agent + "/copyright", Mode: 0o644, Body: []byte(copyright)},
			{Path: "/usr/share/man/man8/" + release.Agent + ".8.gz", Mode: 0o644, Body: squeeze(manual)},
			folder("/etc/loopback"), folder("/usr/lib/loopback"), folder("/usr/share/loopback"), folder("/usr/share/doc/" + release.Agent),
		},
		Scripts: scripts(a.Version),
	}
	if p.Time.IsZero() {
		p.Time = builtAt(a.Program)
	}
	p.Files = append(p.Files, File{Path: "/usr/share/doc/" + release.Agent + "/changelog.gz", Mode: 0o644, Body: squeeze(changelog(p))})
	if len(a.CA) > 0 {
		p.Files = append(p.Files, File{Path: packaged.CA, Mode: 0o644, Body: a.CA})
	}
	return p, nil
}

// check refuses what would make a package that cannot work.
func (a Agent) check() error {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[a.Architecture]
	program, err := elf.NewFile(bytes.NewReader(a.Program))
	switch {
	case err != nil:
		return fault.New(fault.Invalid, "package_invalid", "the agent for %s is not a Linux program", a.Architecture).WithCause(err)
	case program.Machine != machine:
		return fault.New(fault.Invalid, "package_invalid", "the agent for %s is a program for %s", a.Architecture, program.Machine).
			WithHint("build it with GOARCH=%s", a.Architecture)
	case len(a.Root) == 0:
		return fault.New(fault.Precondition, "package_root_missing", "there is no releases' root to put into the package").
			WithHint("publish the agent first, which signs one: loopback release publish")
	}
	return wrap("put the releases' root into the package", release.CheckMetadata(a.Root))
}

// builtAt is when the source of a Go program was committed, by its own word.
func builtAt(program []byte) time.Time {
	about, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return unknownTime
	}
	for _, s := range about.Settings {
		if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			return t.UTC()
		}
	}
	return unknownTime
}

func folder(path string) File { return File{Path: path, Mode: fs.ModeDir | 0o755} }

// settings is the agent.yaml that a host begins with.
func (a Agent) settings() []byte {
	endpoint, anchor := "#endpoints: [https://loopback.example.com:8443]", "#anchor: \"3f1c…\""
	if a.Endpoint != "" {
		endpoint = fmt.Sprintf("endpoints: [%q]", a.Endpoint)
	}
	if a.Anchor != (trust.AnchorHash{}) {
		anchor = fmt.Sprintf("anchor: %q", hex.EncodeToString(a.Anchor[:]))
	}
	var b strings.Builder
	b.WriteString("# Settings of the Loopback agent. With the control plane's address here, or after --endpoint:\n" +
		"#   loopback-agent install --token-file FILE\n" +
		"# enrols this host. The anchor is whom to trust; it comes with the token where it is not given here.\n")
	fmt.Fprintf(&b, "%s\n%s\n", endpoint, anchor)
	if len(a.CA) > 0 {
		b.WriteString("ca_file: /etc/loopback/ca.pem\n")
	}
	return []byte(b.String())
}

// scripts leave the work to the program, which locks out other installations while it does it.
func scripts(version string) Scripts {
	return Scripts{
		Configure: packaged.Program + " install --packaged --version '" + version + "'\n",
		Remove:    "if [ -x " + packaged.Program + " ]; then\n\t" + packaged.Program + " uninstall --packaged\nfi\n",
		Removed:   "if [ -d /run/systemd/system ]; then\n\tsystemctl daemon-reload\nfi\n",
		Purge:     "rm -rf /etc/loopback /var/lib/loopback /opt/loopback\n",
	}
}

// changelog is what Debian's tools look for; what changed is told where all releases are.
func changelog(p Package) string {
	return fmt.Sprintf("%s (%s) stable; urgency=medium\n\n  * See %s/blob/main/CHANGELOG.md\n\n -- %s  %s\n",
		p.Name, release.PackageVersion(p.Version), p.Homepage, p.Maintainer, p.Time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

// manual is loopback-agent(8). What an option does is told by --help, which cannot be of another version.
const manual = `.TH LOOPBACK-AGENT 8
.SH NAME
loopback-agent \- keep this host linked to its Loopback control plane
.SH SYNOPSIS
.B loopback-agent
.I COMMAND
.RI [ OPTION ]...
.SH DESCRIPTION
The agent opens no port. What the control plane may do on this host is in
.IR /etc/loopback/agent.yaml .
.SH COMMANDS
.TP
.B install
Enrol this host and start the agent. Run again, it changes only what has to change.
.TP
.B status
Show how the agent is.
.TP
.B doctor
Find out what stands in its way, and what to change.
.TP
.B uninstall
Stop the agent. With
.BR --purge ,
this host forgets who it is.
.TP
.B version
Print the version.
.PP
.B loopback-agent
.I COMMAND
.B --help
shows the options of a command.
.SH FILES
.I /etc/loopback/agent.yaml
settings,
.I /var/lib/loopback
identity and last good configuration,
.I /opt/loopback
the programs that run.
.SH SEE ALSO
.UR https://github.com/loopbackd/loopback
.UE
`

// squeeze packs a text as Debian wants them packed: without a time or a name.
func squeeze(text string) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is one of the library's own
	}
	_, _ = w.Write([]byte(text)) // to memory, which takes everything
	_ = w.Close()
	return out.Bytes()
}

const copyright = `Loopback, from https://github.com/loopbackd/loopback

Copyright: 2026 the Loopback authors
License: Apache-2.0

On Debian systems, the text of the Apache License 2.0 is in
/usr/share/common-licenses/Apache-2.0.
`
