package release

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
)

// MaxLength is the longest artefact, in bytes: a bound against endless data, far above any program of ours.
const MaxLength = 512 << 20

var (
	program  = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	platform = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	format   = regexp.MustCompile(`^[a-z0-9]{1,16}(\.[a-z0-9]{1,16})?$`)
)

// Validate says what is wrong with a target. Its path follows from the other fields, so that one signed entry cannot
// say two things.
func (t Target) Validate() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("target %q: %s", t.Path, fmt.Sprintf(format, args...))
	}
	switch {
	case len(t.Name) > 64 || !program.MatchString(t.Name):
		return wrong("its name %q is not lower-case words joined by '-'", t.Name)
	case !ValidVersion(t.Version):
		return wrong("its version %q is not a semantic version", t.Version)
	case !platform.MatchString(t.OS) || !platform.MatchString(t.Architecture):
		return wrong("its platform %q is not an operating system and an architecture", t.OS+"-"+t.Architecture)
	case t.Channel != Stable && t.Channel != Preview:
		return wrong("its channel %q is neither stable nor preview", t.Channel)
	case t.Format != FormatProgram && !format.MatchString(t.Format):
		return wrong("its format %q is not the ending of a file's name", t.Format)
	case t.Length < 1 || t.Length > MaxLength:
		return wrong("its length %d is not within 1 and %d", t.Length, MaxLength)
	case len(t.SHA256) != sha256.Size:
		return wrong("its SHA-256 has %d bytes", len(t.SHA256))
	case t.Path != t.FilePath():
		return wrong("its path should be %q", t.FilePath())
	}
	return nil
}

// Custom is what metadata says of the target beyond length and hashes.
func (t Target) Custom() (json.RawMessage, error) { return json.Marshal(t) }

// ParseTarget reads a target of verified metadata and validates it.
func ParseTarget(path string, length int64, sha256 []byte, custom []byte) (Target, error) {
	var t Target
	if err := json.Unmarshal(custom, &t); err != nil {
		return Target{}, fmt.Errorf("target %q: its custom fields cannot be read: %w", path, err)
	}
	t.Path, t.Length, t.SHA256 = path, length, sha256
	return t, t.Validate()
}
