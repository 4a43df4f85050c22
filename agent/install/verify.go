package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// Errors of verification, the same for installing and updating. None of them keeps an agent from running that is
// installed already.
var (
	errUnverified = fault.New(fault.Unauthenticated, "release_unverified", "the release metadata is not validly signed").
			WithHint("the control plane was given other release keys, or somebody alters what it serves; nothing was changed")
	errRolledBack = fault.New(fault.Unauthenticated, "release_rollback", "the release metadata is older than what this host has seen").
			WithHint("the control plane was restored from a backup (publish again: loopback release publish), or somebody replays old answers")
	errExpired = fault.New(fault.Precondition, "release_metadata_expired", "the release metadata has expired").
			WithHint("check this host's clock; if it is right, the control plane has not signed for long: see its log, or run loopback release publish")
	errOversized = fault.New(fault.Unauthenticated, "release_oversized", "the release metadata is larger than it may be").
			WithHint("something between here and the control plane alters downloads")
	errNoRoot = fault.New(fault.Precondition, "release_root_missing", "there is nothing to verify the program by").
			WithHint("install with the script that the control plane serves, or give --trust-root FILE")
	errUnknownProgram = fault.New(fault.Unauthenticated, "release_unknown", "this program is not among the published ones").
				WithHint("fetch it again with the control plane's install script; for one of your own: loopback release publish")
)

// Bounds of metadata, in bytes.
const (
	maxRoot      = 512_000
	maxTimestamp = 16_384
	maxSnapshot  = 2_000_000
	maxTargets   = 5_000_000
)

var metadataFiles = []string{"root.json", "targets.json", "snapshot.json", "timestamp.json"}

// verify finds the program that runs in the signed metadata of the releases.
func (r *run) verify(ctx context.Context) error {
	program, err := self()
	if err != nil {
		return err
	}
	sum, err := hashOf(program)
	if err := errors.Join(err, program.Close()); err != nil {
		return problem("read the program that runs", err)
	}
	targets, err := r.refresh(ctx)
	if errors.Is(err, errExpired) && r.alreadyCurrent(sum) {
		r.step("warning: %s; the program is the one that is installed already", fault.Of(err).Message)
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.Format == release.FormatProgram && t.Name == release.Agent && t.OS == runtime.GOOS && t.Architecture == runtime.GOARCH && bytes.Equal(t.SHA256, sum) {
			r.target = t
		}
	}
	if r.target.Path == "" {
		return r.source().advise(errUnknownProgram)
	}
	if r.Version != "" && r.target.Version != r.Version {
		return fault.New(fault.Unauthenticated, "release_mismatch", "this program is loopback-agent %s, and %s was to be installed", r.target.Version, r.Version).
			WithHint("something between here and the control plane serves other versions than were asked for")
	}
	if r.Channel != "" && !release.On(r.Channel, r.target.Channel) {
		return fault.New(fault.Precondition, "release_mismatch", "loopback-agent %s is on the channel %s, not on %s", r.target.Version, r.target.Channel, r.Channel).
			WithHint("give --channel %s", r.target.Channel)
	}
	if current := r.layout.currentVersion(); !r.AllowDowngrade && release.CompareVersions(r.target.Version, current) < 0 {
		return fault.New(fault.Precondition, "release_downgrade", "loopback-agent %s is installed, and %s is older", current, r.target.Version).
			WithHint("to go back on purpose, name the version: --version %s", r.target.Version)
	}
	r.result.Version = r.target.Version
	r.step("verified: this is loopback-agent %s for %s-%s, by the publisher's signature", r.target.Version, r.target.OS, r.target.Architecture)
	return nil
}

// currentVersion is the version that the link leads to; empty where there is none.
func (l Layout) currentVersion() string {
	target, err := os.Readlink(l.Current())
	if err != nil {
		return ""
	}
	name := filepath.Base(target)
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		return name[:i]
	}
	return ""
}

// alreadyCurrent tells whether the program is what the current version consists of, which was verified when it was
// staged.
func (r *run) alreadyCurrent(sum []byte) bool {
	f, err := os.Open(filepath.Join(r.layout.Current(), "bin", release.Agent))
	if err != nil {
		return false
	}
	defer f.Close()
	held, err := hashOf(f)
	if err != nil || !bytes.Equal(held, sum) {
		return false
	}
	info, err := f.Stat()
	r.target = release.Target{Name: release.Agent, Version: r.layout.currentVersion(), OS: runtime.GOOS, Architecture: runtime.GOARCH, Length: info.Size(), SHA256: sum}
	r.result.Version = r.target.Version
	return err == nil
}

// refresh brings the metadata up to date and returns the targets. The work is done in a copy: a file of the cache that a
// power cut damaged is left out of it, and what was verified is put back even where a later file was refused, so that
// nothing older is accepted next time.
func (r *run) refresh(ctx context.Context) (targets []release.Target, err error) {
	work, err := os.MkdirTemp("", "loopback-releases-")
	if err != nil {
		return nil, problem("make a folder for the release metadata", err)
	}
	defer os.RemoveAll(work)
	root, err := r.root(work)
	if err != nil {
		return nil, err
	}
	base, fetch, err := r.fetcher(ctx)
	if err != nil {
		return nil, err
	}
	c, err := config.New(base, root)
	if err != nil {
		return nil, fmt.Errorf("prepare to verify: %w", err)
	}
	c.RootMaxLength, c.TimestampMaxLength, c.SnapshotMaxLength, c.TargetsMaxLength = maxRoot, maxTimestamp, maxSnapshot, maxTargets
	c.LocalMetadataDir, c.LocalTargetsDir = work, filepath.Join(work, "targets")
	c.Fetcher = fetch
	u, err := updater.New(c)
	if err == nil {
		u.UnsafeSetRefTime(r.clock().UTC()) // the installer's clock, which tests set
		err = u.Refresh()
	}
	if !r.DryRun {
		err = errors.Join(err, r.keep(work))
	}
	if err != nil {
		return nil, fetch.from.advise(classify(err))
	}
	r.skew(fetch)
	for path, file := range u.GetTopLevelTargets() {
		if file.Custom == nil {
			return nil, errUnverified.WithCause(fmt.Errorf("target %q says nothing of itself", path))
		}
		t, err := release.ParseTarget(path, file.Length, file.Hashes["sha256"], *file.Custom)
		if err != nil {
			return nil, errUnverified.WithCause(err)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// root is what the chain of trust begins with: the newest root that this host has verified, else the one it was given.
// The rest of the cache is copied beside it.
func (r *run) root(work string) ([]byte, error) {
	var cached []byte
	for _, name := range metadataFiles {
		file, err := os.ReadFile(filepath.Join(r.layout.Metadata(), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, problem("read the release metadata that was kept", err)
		}
		if err := release.CheckMetadata(file); err != nil {
			r.detail("%s is damaged and fetched anew", name)
			continue
		}
		if name == "root.json" {
			cached = file
			continue
		}
		if err := os.WriteFile(filepath.Join(work, name), file, 0o600); err != nil {
			return nil, problem("copy the release metadata", err)
		}
	}
	if cached != nil {
		return cached, nil
	}
	path := r.TrustRoot
	if path == "" {
		path = r.layout.at(packaged.Root)
	}
	given, err := os.ReadFile(path)
	if err != nil {
		return nil, errNoRoot.WithCause(err)
	}
	if err := release.CheckMetadata(given); err != nil {
		return nil, errNoRoot.WithCause(err)
	}
	return given, nil
}

// keep puts what was verified into the cache.
func (r *run) keep(work string) error {
	if err := durable.MkdirAll(r.layout.State(), 0o700); err != nil {
		return problem("make "+r.layout.State(), err)
	}
	if err := durable.MkdirAll(r.layout.Metadata(), 0o700); err != nil {
		return problem("make "+r.layout.Metadata(), err)
	}
	for _, name := range metadataFiles {
		file, err := os.ReadFile(filepath.Join(work, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = replace(filepath.Join(r.layout.Metadata(), name), file, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// classify says what is wrong in words of ours. The order matters: an expired file is also one of the others.
func classify(err error) error {
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return errExpired.WithCause(err)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}), errors.Is(err, &metadata.ErrEqualVersionNumber{}):
		return errRolledBack.WithCause(err)
	case errors.Is(err, &metadata.ErrDownloadLengthMismatch{}):
		return errOversized.WithCause(err)
	case errors.Is(err, &metadata.ErrDownloadHTTP{}):
		return fault.New(fault.NotFound, "release_not_found", "the control plane serves no release metadata").
			WithHint("publish the agent first: loopback release publish").WithCause(err)
	default:
		return errUnverified.WithCause(err)
	}
}

// skew says when the clocks differ by more than certificates and logs like.
func (r *run) skew(f *fetcher) {
	if f.date.IsZero() || f.from != controlPlane {
		return
	}
	if d := f.at.Sub(f.date).Round(time.Second); d > maxSkew || d < -maxSkew {
		r.step("warning: this host's clock differs from the control plane's by %s; turn time synchronisation on: timedatectl set-ntp true", d)
	}
}

const maxSkew = 2 * time.Minute
