// Package publish is the publisher's side of releases: it holds the keys that vouch for programs, away from the control
// plane, and signs what the control plane then serves.
//
//	keys.json        who may sign: public keys and the root's threshold
//	root-1.key …     private keys of the root; needed only when a new root is signed, and better kept elsewhere
//	targets.key      private key of the targets: needed for every publication
//	1.root.json …    every root that was signed
//	targets.json     the targets that were signed last
//
// A publication reads what the control plane holds, and believes of it only what these keys signed. It signs a new root
// where there is none, where it expires soon, or where the control plane signs snapshot and timestamp with other keys
// than the root names; uploads what is missing, going on where an earlier upload stopped; signs the targets; and hands
// both over. What is signed is written here before it is sent, so that a publication that was cut off is repeated with
// the same bytes. The same publication twice changes nothing.
//
// Versions of targets only rise, here and there: of the control plane's targets and the ones in the folder the newer are
// built upon, so that a control plane restored from a backup gets back what it forgot.
package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Lifetimes of what a publisher signs. A root is signed again when less than a tenth is left of it, targets when less
// than half is. Expired metadata keeps hosts from updating and installing, never from running.
const (
	RootLifetime    = 5 * 365 * 24 * time.Hour
	TargetsLifetime = 365 * 24 * time.Hour
)

// Metadata is what a control plane holds.
type Metadata struct {
	Files        map[string][]byte // "1.root.json" …, "targets.json"; empty before the first publication
	SnapshotKey  ed25519.PublicKey
	TimestampKey ed25519.PublicKey
}

// Service is a control plane as a publisher sees it. Errors are *fault.Error.
type Service interface {
	Metadata(ctx context.Context) (Metadata, error)
	// Upload hands over a part of the artefact with this SHA-256 (hexadecimal) and says where the next must begin. Without
	// data it only asks.
	Upload(ctx context.Context, sha256 string, length, offset int64, data []byte) (next int64, complete bool, err error)
	Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error)
}

// Artefact is a file to publish.
type Artefact struct {
	File         string
	Name         string // "loopback-agent"
	Version      string
	OS           string // as Go names it
	Architecture string // as Go names it
	Channel      string
	Format       string // release.FormatDeb …; empty: the program itself
}

// Progress is told while a publication runs.
type Progress struct {
	Step string // "root", "upload" or "targets"
	Path string // of the target that is uploaded
	Done int64  // bytes
	Size int64
}

// Publish makes the artefacts part of what the control plane serves and returns the releases that they belong to.
// Without artefacts it only renews signatures that are due. progress may be nil.
func (k *Keys) Publish(ctx context.Context, s Service, artefacts []Artefact, progress func(Progress)) ([]release.Release, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	unlock, err := k.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	files, err := measure(artefacts)
	defer files.close()
	if err != nil {
		return nil, err
	}
	theirs, err := s.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is published: %w", err)
	}
	for name, file := range theirs.Files {
		if err := release.CheckMetadata(file); err != nil {
			return nil, errNotSigned.WithCause(fmt.Errorf("%s: %w", name, err))
		}
	}
	roots, err := k.reconcileRoots(theirs)
	if err != nil {
		return nil, err
	}
	if why := k.rootDue(roots, theirs); why != "" {
		progress(Progress{Step: "root"})
		next, err := k.signRoot(roots, theirs, why)
		if err != nil {
			return nil, err
		}
		roots = append(roots, next)
	}
	base, err := k.baseTargets(roots, theirs)
	if err != nil {
		return nil, err
	}
	changed, err := base.add(files)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := f.upload(ctx, s, progress); err != nil {
			return nil, err
		}
	}
	targets := base.file
	if changed || base.due(k.clock()) {
		progress(Progress{Step: "targets"})
		if targets, err = k.signTargets(base); err != nil {
			return nil, err
		}
	}
	out, err := s.Publish(ctx, unknown(roots, theirs), targets)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return out, nil
}

// root is one version of the chain.
type root struct {
	file []byte
	meta *metadata.Metadata[metadata.RootType]
}

func rootName(version int64) string { return fmt.Sprintf("%d.root.json", version) }

// reconcileRoots is the chain of roots: the folder's, and what the control plane has beyond it, once that verifies.
func (k *Keys) reconcileRoots(theirs Metadata) ([]root, error) {
	roots, err := k.readRoots()
	if err != nil {
		return nil, err
	}
	for version := int64(1); ; version++ {
		file, ok := theirs.Files[rootName(version)]
		if !ok {
			return roots, nil
		}
		if version <= int64(len(roots)) {
			if !bytes.Equal(file, roots[version-1].file) {
				return nil, fault.New(fault.Conflict, "publisher_root_differs", "root %d of the control plane is not the one that these keys signed", version).
					WithHint("publish with the keys that this control plane's hosts trust; nothing was changed")
			}
			continue
		}
		if len(roots) == 0 {
			return nil, fault.New(fault.Precondition, "publisher_unknown", "this control plane already has releases, signed by another publisher").
				WithHint("use the folder of keys that they were published with")
		}
		next, err := follow(roots[len(roots)-1], file)
		if err != nil {
			return nil, err
		}
		if err := k.write(rootName(version), file); err != nil {
			return nil, err
		}
		roots = append(roots, next)
	}
}

// follow verifies a root by the one before it.
func follow(before root, file []byte) (root, error) {
	trusted, err := trustedmetadata.New(before.file)
	if err != nil {
		return root{}, fmt.Errorf("read a root: %w", err)
	}
	meta, err := trusted.UpdateRoot(file)
	if err != nil {
		return root{}, fault.New(fault.Conflict, "publisher_root_refused", "a root of the control plane is not signed by the one before it").
			WithHint("somebody altered what the control plane holds; nothing was changed").WithCause(err)
	}
	return root{file, meta}, nil
}

// rootDue says why a new root has to be signed; empty where it has not.
func (k *Keys) rootDue(roots []root, theirs Metadata) string {
	if len(roots) == 0 {
		return "there is no root yet"
	}
	signed := roots[len(roots)-1].meta.Signed
	if signed.Expires.Sub(k.clock()) < RootLifetime/10 {
		return "the root expires on " + signed.Expires.Format(time.DateOnly)
	}
	for _, r := range []struct {
		role      string
		keys      []ed25519.PublicKey
		threshold int
	}{
		{metadata.ROOT, k.public.Root, k.public.Threshold},
		{metadata.TARGETS, []ed25519.PublicKey{k.public.Targets}, 1},
		{metadata.SNAPSHOT, []ed25519.PublicKey{theirs.SnapshotKey}, 1},
		{metadata.TIMESTAMP, []ed25519.PublicKey{theirs.TimestampKey}, 1},
	} {
		ids, err := keyIDs(r.keys)
		held := signed.Roles[r.role]
		if err != nil || held == nil || held.Threshold != r.threshold || !slices.Equal(ids, slices.Sorted(slices.Values(held.KeyIDs))) {
			return "the keys of " + r.role + " changed"
		}
	}
	return ""
}

func keyIDs(keys []ed25519.PublicKey) ([]string, error) {
	var out []string
	for _, key := range keys {
		k, err := metadata.KeyFromPublicKey(key)
		if err != nil {
			return nil, err
		}
		keyID, err := k.ID()
		if err != nil {
			return nil, err
		}
		out = append(out, keyID)
	}
	slices.Sort(out)
	return out, nil
}

func (k *Keys) signRoot(roots []root, theirs Metadata, why string) (root, error) {
	if len(theirs.SnapshotKey) != ed25519.PublicKeySize || len(theirs.TimestampKey) != ed25519.PublicKeySize {
		return root{}, fault.New(fault.Precondition, "publisher_keys_unknown", "the control plane does not show its keys of snapshot and timestamp")
	}
	signers, err := k.rootSigners()
	if err != nil {
		return root{}, err
	}
	if len(signers) < k.public.Threshold {
		return root{}, fault.New(fault.Precondition, "publisher_root_keys_missing", "a new root has to be signed (%s), which needs %d of the root's keys; %d are here", why, k.public.Threshold, len(signers)).
			WithHint("put the root-N.key files into the folder of keys for this one publication")
	}
	meta := metadata.Root(k.clock().UTC().Truncate(time.Second).Add(RootLifetime))
	meta.Signed.Version = int64(len(roots)) + 1
	for role, keys := range map[string][]ed25519.PublicKey{
		metadata.ROOT: k.public.Root, metadata.TARGETS: {k.public.Targets},
		metadata.SNAPSHOT: {theirs.SnapshotKey}, metadata.TIMESTAMP: {theirs.TimestampKey},
	} {
		for _, key := range keys {
			described, err := metadata.KeyFromPublicKey(key)
			if err != nil {
				return root{}, err
			}
			if err := meta.Signed.AddKey(described, role); err != nil {
				return root{}, err
			}
		}
	}
	meta.Signed.Roles[metadata.ROOT].Threshold = k.public.Threshold
	file, err := sign(meta, signers...)
	if err != nil {
		return root{}, fmt.Errorf("sign the root: %w", err)
	}
	next := root{file, meta}
	if len(roots) > 0 {
		if next, err = follow(roots[len(roots)-1], file); err != nil {
			return root{}, err
		}
	}
	return next, k.write(rootName(meta.Signed.Version), file)
}

func sign[T metadata.Roles](m *metadata.Metadata[T], keys ...ed25519.PrivateKey) ([]byte, error) {
	m.ClearSignatures()
	for _, key := range keys {
		signer, err := signature.LoadSigner(key, crypto.Hash(0))
		if err != nil {
			return nil, err
		}
		if _, err := m.Sign(signer); err != nil {
			return nil, err
		}
	}
	return m.ToBytes(false)
}

// unknown are the roots that the control plane does not have.
func unknown(roots []root, theirs Metadata) [][]byte {
	var out [][]byte
	for i, r := range roots {
		if _, ok := theirs.Files[rootName(int64(i)+1)]; !ok {
			out = append(out, r.file)
		}
	}
	return out
}

// errNotSigned says that a control plane's targets are not what these keys signed.
var errNotSigned = fault.New(fault.Conflict, "publisher_targets_refused", "the targets that the control plane holds are not signed by these keys").
	WithHint("somebody altered what the control plane holds; nothing was changed")

func asMissing(err error) bool { return errors.Is(err, errMissing) }
