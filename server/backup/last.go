package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
)

// lastName is the file in the data folder that says when the last backup was finished. It is in no backup.
const lastName = "last-backup"

// Note leaves behind when a backup was finished, for metrics and doctor.
func Note(dataDir string, at time.Time) error {
	if err := durable.WriteFile(filepath.Join(dataDir, lastName), []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		return fault.New(fault.Unavailable, "backup_unnoted", "the backup is whole, but the data folder does not take a note of it").WithCause(err).
			WithHint("run loopbackd backup as the user of loopbackd serve")
	}
	return nil
}

// Last is when the last backup was finished; zero where none ever was.
func Last(dataDir string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, lastName))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
}
