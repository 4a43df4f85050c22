package release

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/tenant"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func refuse(code, format string, args ...any) *fault.Error {
	return fault.New(fault.Precondition, code, format, args...)
}

// Publish makes signed metadata current. roots are new roots in order of version, none where the root did not change.
// The same publication again is answered as the first time; the releases returned are those that it brought, or all that
// it holds where it brought none.
func (s *Service) Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error) {
	if err := mayPublish(ctx); err != nil {
		return nil, err
	}
	if len(roots) > maxRoots || len(targets) == 0 || len(targets) > maxMetadata ||
		slices.ContainsFunc(roots, func(b []byte) bool { return len(b) > maxRoot }) {
		return nil, fault.New(fault.Invalid, "release_metadata_invalid", "the metadata is missing or too large").
			WithHint("at most %d roots of %d bytes and targets of %d bytes are taken", maxRoots, maxRoot, maxMetadata)
	}
	for _, file := range append(slices.Clone(roots), targets) {
		if err := release.CheckMetadata(file); err != nil {
			return nil, refuse("release_metadata_refused", "the metadata cannot be read").WithCause(err)
		}
	}
	ctx, done, err := s.alone(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := s.refresh(ctx); err != nil { // another replica may have published
		return nil, err
	}
	was := s.current.Load()
	next, fresh, err := s.check(ctx, *was, roots, targets)
	if err != nil {
		return nil, err
	}
	if len(fresh) > 0 || !bytes.Equal(targets, was.targetsFile) {
		var files []Value
		for _, b := range fresh {
			files = append(files, Value{rootKey(b.version), b.file})
		}
		files = append(files, Value{metadataKey(fmt.Sprintf("%d.targets.json", next.targetsVersion)), targets})
		if next, err = s.seal(ctx, *next, files, true); err != nil {
			return nil, err
		}
		s.current.Store(next)
	}
	return s.enter(ctx, brought(was, next))
}

// brought are the targets of every release that a publication touched; all, where it touched none.
func brought(was, next *repository) []release.Target {
	touched := map[string]bool{}
	for _, t := range next.targets {
		if old, ok := was.byPath[t.Path]; !ok || old.Channel != t.Channel {
			touched[t.Name+" "+t.Version] = true
		}
	}
	if len(touched) == 0 {
		return next.targets
	}
	return slices.DeleteFunc(slices.Clone(next.targets), func(t release.Target) bool { return !touched[t.Name+" "+t.Version] })
}

type freshRoot struct {
	version int64
	file    []byte
}

// check verifies a publication against what is current, and that every artefact is there.
func (s *Service) check(ctx context.Context, r repository, roots [][]byte, targets []byte) (*repository, []freshRoot, error) {
	was := r
	var fresh []freshRoot
	for _, b := range roots {
		root, err := metadata.Root().FromBytes(b)
		if err != nil {
			return nil, nil, refuse("release_root_refused", "a root cannot be read").WithCause(err)
		}
		if v := root.Signed.Version; v <= r.rootVersion {
			held, err := readMetadata(ctx, s.blobs, rootKey(v))
			if err != nil || !bytes.Equal(held, b) {
				return nil, nil, fault.New(fault.Conflict, "release_root_refused", "root %d is another one here", v).
					WithHint("fetch the current metadata and sign upon it; two publishers with one set of keys must not sign apart")
			}
			continue
		}
		if err := r.addRoot(b); err != nil {
			return nil, nil, refuse("release_root_refused", "root %d is not vouched for by the root before it", root.Signed.Version).WithCause(err)
		}
		fresh = append(fresh, freshRoot{r.rootVersion, b})
	}
	if r.root == nil {
		return nil, nil, refuse("release_root_missing", "there is no root yet").WithHint("the first publication brings its root metadata")
	}
	if err := s.checkRoot(r); err != nil {
		return nil, nil, err
	}
	file, err := metadata.Targets().FromBytes(targets)
	if err != nil {
		return nil, nil, refuse("release_targets_refused", "the targets cannot be read").WithCause(err)
	}
	if err := r.newestRoot().VerifyDelegate(metadata.TARGETS, file); err != nil {
		return nil, nil, refuse("release_targets_refused", "the targets are not signed as the root demands").WithCause(err)
	}
	switch {
	case file.Signed.IsExpired(s.clock()):
		return nil, nil, refuse("release_targets_refused", "the targets have expired").WithHint("sign them again")
	case file.Signed.Delegations != nil:
		return nil, nil, refuse("release_targets_refused", "the targets delegate, which is not supported")
	case file.Signed.Version < was.targetsVersion || file.Signed.Version == was.targetsVersion && !bytes.Equal(targets, was.targetsFile):
		return nil, nil, fault.New(fault.Conflict, "release_targets_stale", "targets %d are not newer than the %d that are published", file.Signed.Version, was.targetsVersion).
			WithHint("somebody else published meanwhile; run the publication again")
	}
	r.targetsFile, r.targetsVersion = targets, file.Signed.Version
	if err := r.read(file); err != nil {
		return nil, nil, refuse("release_targets_refused", "a target is not valid").WithCause(err)
	}
	if err := s.checkTargets(ctx, was, r); err != nil {
		return nil, nil, err
	}
	return &r, fresh, nil
}

// checkRoot demands that the root lets this control plane sign what it must.
func (s *Service) checkRoot(r repository) error {
	root := r.newestRoot().Signed
	if root.IsExpired(s.clock()) {
		return refuse("release_root_expired", "the root has expired").WithHint("sign a new root: loopback release publish with the root keys at hand")
	}
	if !root.ConsistentSnapshot {
		return refuse("release_root_refused", "the root does not demand consistent snapshots")
	}
	for role, key := range map[string]ed25519.PublicKey{metadata.SNAPSHOT: public(s.snapshotKey), metadata.TIMESTAMP: public(s.timestampKey)} {
		k, err := metadata.KeyFromPublicKey(key)
		if err != nil {
			return err
		}
		keyID, err := k.ID()
		if err != nil {
			return err
		}
		held := root.Roles[role]
		if held == nil || held.Threshold != 1 || !slices.Contains(held.KeyIDs, keyID) {
			return refuse("release_root_refused", "the root does not let this control plane sign the %s", role).
				WithHint("sign a new root that names the keys which this control plane shows: loopback release publish with the root keys at hand")
		}
	}
	return nil
}

func (s *Service) checkTargets(ctx context.Context, was, r repository) error {
	for _, old := range was.targets {
		t, ok := r.byPath[old.Path]
		if !ok {
			return refuse("release_withdrawn", "%s is published and missing from the new targets", old.Path).
				WithHint("the publisher signed upon older metadata; run the publication again")
		}
		if !bytes.Equal(t.SHA256, old.SHA256) || t.Channel != old.Channel && old.Channel == release.Stable {
			return refuse("release_changed", "%s is published and cannot become another one", old.Path).
				WithHint("give what changed a new version")
		}
	}
	for _, t := range r.targets {
		b, err := s.blobs.Stat(ctx, artefactKey(hex.EncodeToString(t.SHA256)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && b.Size != t.Length {
			return refuse("artefact_missing", "the artefact of %s is not here with the length and hash that were signed", t.Path).
				WithHint("upload it first")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enter writes the releases that the targets make up into the catalogue, where they differ from what is there: new
// ones, another platform, a promotion to stable.
func (s *Service) enter(ctx context.Context, targets []release.Target) ([]release.Release, error) {
	actor := access.ActorFrom(ctx)
	var out []release.Release
	err := s.store.Write(ctx, func(tx Tx) error {
		out = nil
		known, err := s.all(ctx, tx)
		if err != nil {
			return err
		}
		byName := map[string]release.Release{}
		for _, r := range known {
			byName[r.Name] = r
		}
		for _, r := range group(targets, s.clock()) {
			before, exists := byName[r.Name]
			if exists {
				if same(before, r) {
					out = append(out, before)
					continue
				}
				r.Meta, r.PublishedAt = before.Meta, before.PublishedAt
			}
			stored, err := tx.PutRelease(ctx, r)
			if err != nil {
				return err
			}
			entry := audit.Of(actor, release.Publish, access.Scope{}, stored.ID, stored.Name)
			if exists {
				entry = entry.Change(before, stored)
			} else {
				entry = entry.Change(nil, stored)
			}
			if err := tx.Audit(ctx, entry); err != nil {
				return err
			}
			out = append(out, stored)
		}
		return nil
	})
	return out, err
}

// all reads the whole catalogue: some hundreds of rows in the life of a deployment.
func (s *Service) all(ctx context.Context, from Reader) ([]release.Release, error) {
	var out []release.Release
	page := tenant.Page{Size: tenant.MaxPage}
	for {
		items, next, err := from.Releases(ctx, "", "", page)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		if next == "" {
			return out, nil
		}
		page.Token = next
	}
}

// group makes releases of targets: one for each version of a program, in order of version.
func group(targets []release.Target, now time.Time) []release.Release {
	byName := map[string]*release.Release{}
	for _, t := range targets {
		name := t.Name + " " + t.Version
		r := byName[name]
		if r == nil {
			r = &release.Release{
				Meta:    tenant.Meta{ID: id.New("rel", now), Name: name, CreatedAt: now, UpdatedAt: now},
				Program: t.Name, Version: t.Version, Channel: t.Channel, PublishedAt: now,
			}
			byName[name] = r
		}
		if t.Channel == release.Stable {
			r.Channel = release.Stable // promoted, one platform after the other
		}
		r.Targets = append(r.Targets, t)
	}
	var out []release.Release
	for _, r := range byName {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b release.Release) int {
		if c := strings.Compare(a.Program, b.Program); c != 0 {
			return c
		}
		return release.CompareVersions(a.Version, b.Version)
	})
	return out
}

func same(a, b release.Release) bool {
	return a.Channel == b.Channel && slices.EqualFunc(a.Targets, b.Targets, func(x, y release.Target) bool {
		return x.Path == y.Path && x.Channel == y.Channel && x.Length == y.Length && bytes.Equal(x.SHA256, y.SHA256)
	})
}
