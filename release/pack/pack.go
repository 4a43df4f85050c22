// Package pack makes packages, deb and rpm, of one description. It needs no packaging tool and no machine of the kind that
// the package is for.
//
// The same description gives the same bytes: every file has the description's time, root's ownership and a place in the
// order of its path, and nothing is taken from the machine that packs. Payloads are packed with gzip, which every dpkg and
// rpm in use reads.
//
// A package is not signed: the control plane serves it as a target of its signed metadata, and the program in it verifies
// itself by that metadata before it enrols a host.
package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// Package describes a package.
type Package struct {
	Name         string
	Version      string // semantic
	Architecture string // as Go names it
	Summary      string // one line
	Description  string // lines
	Homepage     string
	Licence      string // SPDX
	Maintainer   string // "NAME <ADDRESS>"
	Requires     []string
	Time         time.Time // of all that is in it
	Files        []File
	Scripts      Scripts
}

// File is a file, a folder (of mode fs.ModeDir) or a symbolic link (of mode fs.ModeSymlink).
type File struct {
	Path string // absolute
	Mode fs.FileMode
	Body []byte
	Link string // where a symbolic link leads
}

// Scripts are lines of shell. They run on installing, upgrading and removing; what they do must bear repeating.
type Scripts struct {
	Configure string // after unpacking
	Remove    string // before the last version's files go
	Removed   string // after they went
	Purge     string // deb: when settings and state are to go as well
}

// Write writes the package in a format of package release.
func (p Package) Write(w io.Writer, format string) error {
	if err := p.validate(); err != nil {
		return err
	}
	switch format {
	case release.FormatDeb:
		return p.deb(w)
	case release.FormatRPM:
		return p.rpm(w)
	}
	return fault.New(fault.Invalid, "package_format_unknown", "there is no package format %q", format).WithHint("the formats are deb and rpm")
}

func (p Package) validate() error {
	var c fault.Check
	c.That(p.Name != "" && strings.Trim(p.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "", "name", "is %q, not lower-case letters, digits and '-'", p.Name)
	c.That(release.ValidVersion(p.Version), "version", "is %q, not a version like 1.2.3", p.Version)
	c.That(p.Architecture == "amd64" || p.Architecture == "arm64", "architecture", "is %q; packages are made for amd64 and arm64", p.Architecture)
	c.That(p.Time.Unix() > 0 && p.Time.Unix() < 1<<32, "time", "is %s, which the formats cannot say", p.Time)
	for _, f := range p.Files {
		c.That(path.IsAbs(f.Path) && path.Clean(f.Path) == f.Path && f.Path != "/", "files", "have %q, not a clean absolute path", f.Path)
		c.That(f.Mode&^(fs.ModePerm|fs.ModeDir|fs.ModeSymlink) == 0, "files", "have %q with mode %s", f.Path, f.Mode)
		c.That(int64(len(f.Body)) < release.MaxLength, "files", "have %q, which is too large", f.Path)
	}
	return c.Err("package_invalid", "the package cannot be made")
}

// sorted are the files in order of their paths.
func (p Package) sorted() []File {
	return slices.SortedFunc(slices.Values(p.Files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
}

func (p Package) size() (bytes int64) {
	for _, f := range p.Files {
		bytes += int64(len(f.Body))
	}
	return bytes
}

func (f File) folder() bool { return f.Mode.IsDir() }
func (f File) link() bool   { return f.Mode&fs.ModeSymlink != 0 }

// unix is the file's mode as stat(2) has it.
func (f File) unix() uint32 {
	kind := uint32(0o100000)
	switch {
	case f.folder():
		kind = 0o040000
	case f.link():
		return 0o120777
	}
	return kind | uint32(f.Mode.Perm())
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func wrap(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
