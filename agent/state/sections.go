package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/section"
)

const sectionsDir = "sections"

// Held is a section as it was last applied.
type Held struct {
	Section   section.Section
	AppliedAt time.Time
}

// Aside is a section whose file could not be read.
type Aside struct {
	Name string
	Err  error
}

var sectionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Sections reads the last good value of every section, by name. Files that are damaged are moved to the folder aside/
// and named; they do not keep the others from being used.
func (s *Store) Sections() ([]Held, []Aside, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, sectionsDir))
	if err != nil {
		return nil, nil, problem("read the sections", err)
	}
	var held []Held
	var aside []Aside
	for _, e := range entries {
		file := filepath.Join(sectionsDir, e.Name())
		contents, err := os.ReadFile(filepath.Join(s.dir, file))
		if err != nil {
			return nil, nil, problem("read "+file, err)
		}
		h, err := parseSection(contents)
		if err == nil && h.Section.Name != e.Name() {
			err = fmt.Errorf("%w: it holds the section %s", errDamaged, h.Section.Name)
		}
		if err != nil {
			if err := s.setAside(file, e.Name()); err != nil {
				return nil, nil, err
			}
			aside = append(aside, Aside{e.Name(), err})
			continue
		}
		held = append(held, h)
	}
	return held, aside, nil
}

// PutSection stores a section that was applied, over the one before.
func (s *Store) PutSection(h Held) error {
	if !sectionName.MatchString(h.Section.Name) {
		return fmt.Errorf("store the section: %q is not a section's name", h.Section.Name)
	}
	return s.replace(filepath.Join(sectionsDir, h.Section.Name), formatSection(h))
}

// DropSections forgets every section: what another host was to hold.
func (s *Store) DropSections() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, sectionsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return problem("read the sections", err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return problem("forget a section", err)
		}
	}
	return problem("forget the sections", durable.SyncDir(dir))
}

// formatSection writes, under the sealed line: name, epoch, number, digest, time applied, and the items; numbers as
// varints, each string after its length.
func formatSection(h Held) []byte {
	v := h.Section
	b := appendString(nil, v.Name)
	b = binary.AppendUvarint(b, uint64(v.Revision.Epoch))
	b = binary.AppendUvarint(b, v.Revision.Number)
	b = append(b, v.Digest[:]...)
	b = binary.AppendVarint(b, h.AppliedAt.UnixNano())
	b = binary.AppendUvarint(b, uint64(len(v.Items)))
	for _, it := range v.Items {
		b = appendString(b, it.Key)
		b = appendString(b, string(it.Value))
	}
	return seal("section", b)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func parseSection(contents []byte) (Held, error) {
	body, err := unseal("section", contents)
	if err != nil {
		return Held{}, err
	}
	r := &sectionReader{rest: body}
	name := string(r.bytes(64))
	epoch, number := r.uvarint(), r.uvarint()
	digest := r.take(len(section.Digest{}))
	applied := r.varint()
	count := r.uvarint()
	if r.failed || epoch > 1<<32-1 || count > section.MaxItems || !sectionName.MatchString(name) {
		return Held{}, fmt.Errorf("%w: its head makes no sense", errDamaged)
	}
	// Capacity follows what is really there: an item has at least two bytes.
	items := make([]section.Item, 0, min(count, uint64(len(r.rest)/2)))
	for range count {
		it := section.Item{Key: string(r.bytes(section.MaxKey)), Value: r.bytes(section.MaxValue)}
		if r.failed {
			return Held{}, fmt.Errorf("%w: it ends within an item", errDamaged)
		}
		items = append(items, it)
	}
	if len(r.rest) > 0 {
		return Held{}, fmt.Errorf("%w: something follows its end", errDamaged)
	}
	v, err := section.New(name, section.Revision{Epoch: uint32(epoch), Number: number}, items)
	if err != nil {
		return Held{}, errors.Join(errDamaged, err)
	}
	if !bytes.Equal(v.Digest[:], digest) {
		return Held{}, fmt.Errorf("%w: the section does not match its digest", errDamaged)
	}
	return Held{Section: v, AppliedAt: time.Unix(0, applied)}, nil
}

// sectionReader takes a body apart. After the first thing that does not fit, everything reads as zero.
type sectionReader struct {
	rest   []byte
	failed bool
}

func (r *sectionReader) fail() { r.failed, r.rest = true, nil }

func (r *sectionReader) take(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *sectionReader) bytes(limit int) []byte {
	n := r.uvarint()
	if n > uint64(limit) {
		r.fail()
		return nil
	}
	return slices.Clone(r.take(int(n)))
}

func (r *sectionReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *sectionReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}
