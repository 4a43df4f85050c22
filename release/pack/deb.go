package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/release"
)

// deb writes a package as deb(5) has it: an ar(5) archive of the format's version, a tar of what dpkg wants to know and a
// tar of the files.
func (p Package) deb(w io.Writer) error {
	control, err := p.control()
	if err != nil {
		return fmt.Errorf("pack the control files: %w", err)
	}
	data, err := p.tarball(p.withFolders())
	if err != nil {
		return fmt.Errorf("pack the files: %w", err)
	}
	if _, err := io.WriteString(w, "!<arch>\n"); err != nil {
		return err
	}
	for _, member := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		// Name, time, owner, group, mode, length, end: of fixed width, in digits.
		head := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, p.Time.Unix(), 0, 0, "100644", len(member.body))
		if len(member.body)%2 == 1 {
			member.body = append(member.body, '\n')
		}
		if _, err := w.Write(append([]byte(head), member.body...)); err != nil {
			return err
		}
	}
	return nil
}

// control is what dpkg wants to know.
func (p Package) control() ([]byte, error) {
	var about strings.Builder
	fmt.Fprintf(&about, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: %s\nInstalled-Size: %d\n",
		p.Name, release.PackageVersion(p.Version), p.Architecture, p.Maintainer, (p.size()+1023)/1024)
	if len(p.Requires) > 0 {
		fmt.Fprintf(&about, "Depends: %s\n", strings.Join(p.Requires, ", "))
	}
	fmt.Fprintf(&about, "Section: admin\nPriority: optional\nHomepage: %s\nDescription: %s\n", p.Homepage, p.Summary)
	for line := range strings.SplitSeq(strings.TrimSpace(p.Description), "\n") {
		if line == "" {
			line = "."
		}
		fmt.Fprintf(&about, " %s\n", line)
	}
	var sums strings.Builder
	for _, f := range p.sorted() {
		if f.Mode.IsRegular() {
			sum := md5.Sum(f.Body) // what the format has; against a damaged disk, not against an attacker
			fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), f.Path[1:])
		}
	}
	files := []File{{Path: "/control", Mode: 0o644, Body: []byte(about.String())}, {Path: "/md5sums", Mode: 0o644, Body: []byte(sums.String())}}
	for _, script := range []struct{ name, body string }{{"postinst", p.debPostinst()}, {"prerm", p.debPrerm()}, {"postrm", p.debPostrm()}} {
		files = append(files, File{Path: "/" + script.name, Mode: 0o755, Body: []byte(script.body)})
	}
	return p.tarball(files)
}

func (p Package) debPostinst() string {
	return "#!/bin/sh\nset -e\ncase \"$1\" in\nconfigure | abort-upgrade | abort-remove | abort-deconfigure)\n" + indent(p.Scripts.Configure) + "\t;;\nesac\n"
}

func (p Package) debPrerm() string {
	return "#!/bin/sh\nset -e\ncase \"$1\" in\nremove)\n" + indent(p.Scripts.Remove) + "\t;;\nesac\n"
}

func (p Package) debPostrm() string {
	return "#!/bin/sh\nset -e\ncase \"$1\" in\nremove)\n" + indent(p.Scripts.Removed) + "\t;;\npurge)\n" + indent(p.Scripts.Purge) + "\t;;\nesac\n"
}

func indent(script string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		b.WriteString("\t" + line + "\n")
	}
	return b.String()
}

// withFolders are the files and every folder above them, which dpkg expects in the archive.
func (p Package) withFolders() []File {
	all := map[string]File{}
	for _, f := range p.Files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = folder(dir)
			}
		}
		all[f.Path] = f
	}
	var out []File
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func (p Package) tarball(files []File) ([]byte, error) {
	var out bytes.Buffer
	squeezed, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(squeezed)
	write := func(h tar.Header, body []byte) error {
		h.ModTime, h.Uname, h.Gname, h.Format = p.Time, "root", "root", tar.FormatGNU
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		_, err := t.Write(body)
		return err
	}
	if err := write(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, nil); err != nil {
		return nil, err
	}
	for _, f := range files {
		h := tar.Header{Name: "." + f.Path, Typeflag: tar.TypeReg, Mode: int64(f.unix() & 0o7777), Size: int64(len(f.Body))}
		switch {
		case f.folder():
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case f.link():
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := write(h, f.Body); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	if err := squeezed.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
