package pack

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/loopbackd/loopback/release"
)

// Tags of the header, and flags of a requirement; rpm's reference manual lists them.
const (
	regionSignatures = 62
	regionImmutable  = 63

	senseLess      = 1 << 1
	senseEqual     = 1 << 3
	senseInterpret = 1 << 8
	sensePostIn    = 1 << 10
	sensePreUn     = 1 << 11
	sensePostUn    = 1 << 12
	senseRPMLib    = 1 << 24

	digestSHA256 = 8
	verifyAll    = 0xffffffff
	shell        = "/bin/sh"
)

// rpm writes a package as rpm 4 has it: a lead, digests, the header, and the files as a cpio archive.
func (p Package) rpm(w io.Writer) error {
	archive, length, err := p.cpio()
	if err != nil {
		return fmt.Errorf("pack the files: %w", err)
	}
	head := p.header(archive).encode()
	both := md5.New() // here and below: what the format has, beside SHA-256
	both.Write(head)
	both.Write(archive)
	first := sha1.Sum(head)
	digests := &header{region: regionSignatures}
	digests.int32s(1000, uint32(len(head)+len(archive)))
	digests.bytes(1004, both.Sum(nil))
	digests.int32s(1007, uint32(length))
	digests.text(269, hex.EncodeToString(first[:]))
	digests.text(273, hexSum(head))
	seals := digests.encode()
	for len(seals)%8 != 0 {
		seals = append(seals, 0)
	}
	for _, part := range [][]byte{p.lead(), seals, head, archive} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (p Package) rpmName() string {
	return fmt.Sprintf("%s-%s-1", p.Name, release.PackageVersion(p.Version))
}

// lead is what file(1) looks at, and nobody else any more.
func (p Package) lead() []byte {
	lead := make([]byte, 96)
	copy(lead, []byte{0xed, 0xab, 0xee, 0xdb, 3, 0, 0, 0})
	machine := map[string]uint16{"amd64": 1, "arm64": 19}[p.Architecture]
	binary.BigEndian.PutUint16(lead[8:], machine)
	copy(lead[10:75], p.rpmName())
	binary.BigEndian.PutUint16(lead[76:], 1) // Linux
	binary.BigEndian.PutUint16(lead[78:], 5) // a header of digests follows
	return lead
}

func (p Package) header(archive []byte) *header {
	version := release.PackageVersion(p.Version)
	h := &header{region: regionImmutable}
	h.texts(100, []string{"C"})
	h.text(1000, p.Name)
	h.text(1001, version)
	h.text(1002, "1")
	h.translated(1004, p.Summary)
	h.translated(1005, p.Description)
	h.int32s(1006, uint32(p.Time.Unix()))
	h.text(1007, "localhost") // of no build: the same everywhere
	h.int32s(1009, uint32(p.size()))
	h.text(1014, p.Licence)
	h.text(1015, p.Maintainer)
	h.translated(1016, "System Environment/Daemons")
	h.text(1020, p.Homepage)
	h.text(1021, "linux")
	h.text(1022, release.RPMArchitecture(p.Architecture))
	h.text(1044, p.rpmName()+".src.rpm") // a package without is taken for one of sources
	h.text(1064, "4.14.0")
	h.text(1124, "cpio")
	h.text(1125, "gzip")
	h.text(1126, "9")
	h.int32s(5011, digestSHA256)
	h.text(5062, "utf-8")
	h.texts(5092, []string{hexSum(archive)})
	h.int32s(5093, digestSHA256)
	p.scripts(h)
	p.relations(h, version)
	p.files(h)
	return h
}

// scripts are told how many versions will be left: none when the package is removed, one or more at an upgrade.
func (p Package) scripts(h *header) {
	last := func(script string) string { return "if [ \"$1\" = 0 ]; then\n" + indent(script) + "fi\n" }
	for _, s := range []struct {
		script, program int32
		body            string
	}{{1024, 1086, "set -e\n" + p.Scripts.Configure}, {1025, 1087, "set -e\n" + last(p.Scripts.Remove)}, {1026, 1088, last(p.Scripts.Removed)}} {
		h.text(s.script, s.body)
		h.text(s.program, shell)
	}
}

func (p Package) relations(h *header, version string) {
	h.texts(1047, []string{p.Name, p.Name + "(" + map[string]string{"amd64": "x86-64", "arm64": "aarch-64"}[p.Architecture] + ")"})
	h.int32s(1112, senseEqual, senseEqual)
	h.texts(1113, []string{version + "-1", version + "-1"})

	type need struct {
		name, version string
		flags         uint32
	}
	needs := []need{
		{shell, "", senseInterpret | sensePostIn}, {shell, "", senseInterpret | sensePreUn}, {shell, "", senseInterpret | sensePostUn},
		{"rpmlib(CompressedFileNames)", "3.0.4-1", senseRPMLib | senseLess | senseEqual},
		{"rpmlib(FileDigests)", "4.6.0-1", senseRPMLib | senseLess | senseEqual},
		{"rpmlib(PayloadFilesHavePrefix)", "4.0-1", senseRPMLib | senseLess | senseEqual},
		{"rpmlib(TildeInVersions)", "4.10.0-1", senseRPMLib | senseLess | senseEqual},
	}
	for _, name := range p.Requires {
		needs = append(needs, need{name, "", 0})
	}
	var names, versions []string
	var flags []uint32
	for _, n := range needs {
		names, versions, flags = append(names, n.name), append(versions, n.version), append(flags, n.flags)
	}
	h.texts(1049, names)
	h.int32s(1048, flags...)
	h.texts(1050, versions)
}

// files says of each file what the archive says, and a digest.
func (p Package) files(h *header) {
	var sizes, times, devices, inodes, flags, verify, folders []uint32
	var modes, rdevs []uint16
	var digests, links, owners, languages, names, dirs []string
	for i, f := range p.sorted() {
		dir, name := path.Split(f.Path)
		at := slices.Index(dirs, dir)
		if at < 0 {
			at, dirs = len(dirs), append(dirs, dir)
		}
		digest := ""
		if f.Mode.IsRegular() {
			digest = hexSum(f.Body)
		}
		sizes, times = append(sizes, uint32(f.length())), append(times, uint32(p.Time.Unix()))
		devices, inodes = append(devices, 1), append(inodes, uint32(i+1))
		flags, verify, folders = append(flags, 0), append(verify, verifyAll), append(folders, uint32(at))
		modes, rdevs = append(modes, uint16(f.unix())), append(rdevs, 0)
		digests, links = append(digests, digest), append(links, f.Link)
		owners, languages, names = append(owners, "root"), append(languages, ""), append(names, name)
	}
	h.int32s(1028, sizes...)
	h.int16s(1030, modes)
	h.int16s(1033, rdevs)
	h.int32s(1034, times...)
	h.texts(1035, digests)
	h.texts(1036, links)
	h.int32s(1037, flags...)
	h.texts(1039, owners)
	h.texts(1040, owners)
	h.int32s(1045, verify...)
	h.int32s(1095, devices...)
	h.int32s(1096, inodes...)
	h.texts(1097, languages)
	h.int32s(1116, folders...)
	h.texts(1117, names)
	h.texts(1118, dirs)
}

func (f File) length() int {
	switch {
	case f.folder():
		return 4096 // as a file system says of one
	case f.link():
		return len(f.Link)
	}
	return len(f.Body)
}

// cpio is the archive in the "new ASCII" format of cpio(5), squeezed, and its length before.
func (p Package) cpio() (archive []byte, length int, err error) {
	var plain bytes.Buffer
	member := func(name string, inode, mode, links uint32, body []byte) {
		plain.WriteString("070701")
		seconds := uint32(p.Time.Unix())
		if inode == 0 {
			seconds = 0
		}
		for _, n := range []uint32{inode, mode, 0, 0, links, seconds, uint32(len(body)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
			fmt.Fprintf(&plain, "%08x", n)
		}
		plain.WriteString(name)
		plain.WriteByte(0)
		pad(&plain)
		plain.Write(body)
		pad(&plain)
	}
	for i, f := range p.sorted() {
		body, links := f.Body, uint32(1)
		switch {
		case f.folder():
			body, links = nil, 2
		case f.link():
			body = []byte(f.Link)
		}
		member("."+f.Path, uint32(i+1), f.unix(), links, body)
	}
	member("TRAILER!!!", 0, 0, 1, nil)
	var out bytes.Buffer
	squeezed, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = squeezed.Write(plain.Bytes())
	}
	if err == nil {
		err = squeezed.Close()
	}
	return out.Bytes(), plain.Len(), err
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
