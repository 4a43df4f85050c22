// Package mirror copies a repository of releases to a folder, all of it or some, for hosts that fetch from another place
// than the control plane: from a plain file server that serves the folder, or from the folder itself, carried to them.
//
//	metadata/timestamp.json, 17.snapshot.json, 4.targets.json, 1.root.json …   as the control plane serves them
//	targets/NAME/VERSION/OS-ARCH/SHA256.FILE                                     what hosts ask for
//	targets/NAME/VERSION/OS-ARCH/FILE                                            in a mirror, the same file for people
//
// What is copied was verified, from the root that the caller trusts on, and hosts verify it again as they would at the
// control plane: whoever keeps a mirror can withhold, not alter. Metadata that expires keeps hosts from installing, so a
// mirror is copied again before that, and a bundle made anew. Files that are there already are not fetched again.
//
// Targets are written before the metadata that names them, and the timestamp last: whoever reads the folder meanwhile, or
// after a copy was cut off, finds the state before.
package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// Options say what to copy from where.
type Options struct {
	URL    string       // of the repository, above metadata and targets: "https://loopback.example.com:8443/dl"
	Client *http.Client // with its own bounds in time for an answer's beginning
	Root   []byte       // that is trusted: the chain begins here
	// Pick says which targets are wanted; nil: all.
	Pick     func([]release.Target) ([]release.Target, error)
	Plain    bool                            // targets lie under their plain names as well
	Progress func(path string, length int64) // before a target is fetched; may be nil
}

// Copied is what a copy came to.
type Copied struct {
	Targets []release.Target // that are in the folder and were wanted
	Fetched int              // how many of them were not there before
	Expires time.Time        // of the metadata that expires first
}

// Copy brings the folder up to the repository.
func Copy(ctx context.Context, dir string, o Options) (Copied, error) {
	f := &fetcher{ctx: ctx, client: o.Client, files: map[string][]byte{}}
	targets, expires, err := refresh(o, f)
	if err != nil {
		return Copied{}, err
	}
	out := Copied{Targets: targets, Expires: expires}
	if o.Pick != nil {
		if out.Targets, err = o.Pick(targets); err != nil {
			return Copied{}, err
		}
	}
	for _, t := range out.Targets {
		fresh, err := copyTarget(ctx, dir, t, o)
		if err != nil {
			return Copied{}, err
		}
		if fresh {
			out.Fetched++
		}
	}
	return out, writeMetadata(filepath.Join(dir, "metadata"), f.files)
}

// refresh reads and verifies the metadata.
func refresh(o Options, f *fetcher) ([]release.Target, time.Time, error) {
	c, err := config.New(strings.TrimSuffix(o.URL, "/")+"/metadata", o.Root)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("prepare to verify: %w", err)
	}
	c.DisableLocalCache = true
	c.Fetcher = f
	u, err := updater.New(c)
	if err == nil {
		err = u.Refresh()
	}
	if err != nil {
		return nil, time.Time{}, classify(err)
	}
	set := u.GetTrustedMetadataSet()
	first, err := metadata.Root().FromBytes(o.Root)
	if err != nil {
		return nil, time.Time{}, err
	}
	f.files[fmt.Sprintf("%d.root.json", first.Signed.Version)] = o.Root
	expires := set.Timestamp.Signed.Expires
	for _, other := range []time.Time{set.Root.Signed.Expires, set.Snapshot.Signed.Expires, set.Targets[metadata.TARGETS].Signed.Expires} {
		if other.Before(expires) {
			expires = other
		}
	}
	var targets []release.Target
	for path, file := range u.GetTopLevelTargets() {
		if file.Custom == nil {
			return nil, time.Time{}, errUnverified.WithCause(fmt.Errorf("target %q says nothing of itself", path))
		}
		t, err := release.ParseTarget(path, file.Length, file.Hashes["sha256"], *file.Custom)
		if err != nil {
			return nil, time.Time{}, errUnverified.WithCause(err)
		}
		targets = append(targets, t)
	}
	slices.SortFunc(targets, func(a, b release.Target) int { return strings.Compare(a.Path, b.Path) })
	return targets, expires, nil
}

var errUnverified = fault.New(fault.Unauthenticated, "release_unverified", "the release metadata is not validly signed").
	WithHint("somebody alters what the control plane serves; nothing was copied")

func classify(err error) error {
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return fault.New(fault.Precondition, "release_metadata_expired", "the release metadata has expired").
			WithHint("check this machine's clock; if it is right, see the control plane's log, or run loopback release publish").WithCause(err)
	case errors.Is(err, &metadata.ErrDownloadHTTP{}):
		return fault.New(fault.NotFound, "release_not_found", "the control plane serves no release metadata").
			WithHint("publish the agent first: loopback release publish").WithCause(err)
	default:
		return errUnverified.WithCause(err)
	}
}

// hashedName is the file that hosts ask for.
func hashedName(t release.Target) string {
	folder, file := path.Split(t.Path)
	return folder + hex.EncodeToString(t.SHA256) + "." + file
}

// copyTarget tells whether the target had to be fetched.
func copyTarget(ctx context.Context, dir string, t release.Target, o Options) (fresh bool, err error) {
	file := filepath.Join(dir, "targets", filepath.FromSlash(hashedName(t)))
	if !held(file, t) {
		if o.Progress != nil {
			o.Progress(t.Path, t.Length)
		}
		if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return false, fmt.Errorf("copy %s: %w", t.Path, err)
		}
		mode := fs.FileMode(0o644)
		if t.Format == release.FormatProgram {
			mode = 0o755
		}
		url := strings.TrimSuffix(o.URL, "/") + "/targets/" + hashedName(t)
		err := try(ctx, func() error {
			return durable.Write(file, mode, func(w io.Writer) error { return fetchTarget(ctx, o.Client, url, w, t) })
		})
		if err != nil {
			return false, err
		}
		fresh = true
	}
	plain := filepath.Join(dir, "targets", filepath.FromSlash(t.Path))
	if !o.Plain || held(plain, t) {
		return fresh, nil
	}
	if err := os.Remove(plain); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("copy %s: %w", t.Path, err)
	}
	if err := os.Link(file, plain); err != nil {
		return false, fmt.Errorf("copy %s: %w", t.Path, err)
	}
	return fresh, nil
}

// held tells whether a file is the target.
func held(file string, t release.Target) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(f, t.Length+1))
	return err == nil && n == t.Length && bytes.Equal(hash.Sum(nil), t.SHA256)
}

func fetchTarget(ctx context.Context, client *http.Client, url string, w io.Writer, t release.Target) error {
	answer, err := get(ctx, client, url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return status(answer, url)
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, hash), io.LimitReader(answer.Body, t.Length+1))
	switch {
	case n > t.Length, err == nil && n == t.Length && !bytes.Equal(hash.Sum(nil), t.SHA256):
		return fault.New(fault.Unauthenticated, "artefact_altered", "%s is not what was signed", t.Path).
			WithHint("something between here and the control plane alters downloads; nothing of it was kept")
	case err != nil, n < t.Length:
		return fault.New(fault.Unavailable, "connect_failed", "the download of %s stopped at %d of %d bytes", t.Path, n, t.Length).
			WithHint("run this again: it goes on with what is missing").WithCause(err)
	}
	return nil
}

// writeMetadata puts the files down in the order in which they may be seen.
func writeMetadata(dir string, files map[string][]byte) error {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("copy the metadata: %w", err)
	}
	order := []string{".root.json", ".targets.json", ".snapshot.json", "timestamp.json"}
	for _, last := range order {
		for name, b := range files {
			if !strings.HasSuffix(name, last) {
				continue
			}
			if err := durable.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				return fmt.Errorf("copy the metadata: %w", err)
			}
		}
	}
	return nil
}
