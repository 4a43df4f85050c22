package release

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Bounds of metadata files, in bytes: those that hosts enforce.
const (
	maxRoot     = 512_000
	maxMetadata = 5_000_000
	maxRoots    = 64 // in one publication
)

// repository is one consistent state. It is never changed: a new one replaces it.
type repository struct {
	root        []byte // newest; nil before the first publication
	rootVersion int64
	roots       []*metadata.Metadata[metadata.RootType] // the chain, oldest first

	targetsFile    []byte
	targetsVersion int64
	targetsExpires time.Time
	targets        []release.Target // in order of their paths
	byPath         map[string]release.Target

	snapshotFile     []byte
	snapshotVersion  int64
	snapshotExpires  time.Time
	timestampVersion int64
	timestampExpires time.Time
	timestampBlob    string // version of the blob that timestamp.json was read from, or written as; empty: there was none
}

func metadataKey(name string) string { return "metadata/" + name }
func rootName(version int64) string  { return strconv.FormatInt(version, 10) + ".root.json" }
func rootKey(version int64) string   { return metadataKey(rootName(version)) }

const timestampName = "timestamp.json"

// Current is the key of what points at all that is published: there is none before the first publication.
const Current = "metadata/" + timestampName

// load reads what timestamp.json points at and verifies all of it. Expired metadata loads: it is for hosts to refuse, and
// for us to sign again.
func load(ctx context.Context, blobs Blobs) (*repository, error) {
	r := &repository{}
	// What the switch points at is read after it: a version that is replaced meanwhile is found out at the next look.
	switched, err := blobs.Stat(ctx, Current)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil // nothing is published, or a first publication did not reach its end
	}
	if err != nil {
		return nil, err
	}
	r.timestampBlob = switched.Version
	if err := r.loadRoots(ctx, blobs); err != nil {
		return nil, err
	}
	if r.root == nil {
		return nil, errors.New("the stored metadata has a timestamp and no root")
	}
	file, err := readMetadata(ctx, blobs, Current)
	if err != nil {
		return nil, err
	}
	timestamp, err := metadata.Timestamp().FromBytes(file)
	if err == nil {
		err = r.verify(metadata.TIMESTAMP, timestamp)
	}
	if err != nil || timestamp.Signed.Meta["snapshot.json"] == nil {
		return nil, fmt.Errorf("the stored timestamp does not verify: %w", err)
	}
	r.timestampVersion, r.timestampExpires = timestamp.Signed.Version, timestamp.Signed.Expires

	r.snapshotVersion = timestamp.Signed.Meta["snapshot.json"].Version
	if r.snapshotFile, err = readMetadata(ctx, blobs, metadataKey(fmt.Sprintf("%d.snapshot.json", r.snapshotVersion))); err != nil {
		return nil, err
	}
	snapshot, err := metadata.Snapshot().FromBytes(r.snapshotFile)
	if err == nil {
		err = r.verify(metadata.SNAPSHOT, snapshot)
	}
	if err != nil || snapshot.Signed.Version != r.snapshotVersion || snapshot.Signed.Meta["targets.json"] == nil {
		return nil, fmt.Errorf("the stored snapshot does not verify: %w", err)
	}
	r.snapshotExpires = snapshot.Signed.Expires

	r.targetsVersion = snapshot.Signed.Meta["targets.json"].Version
	if r.targetsFile, err = readMetadata(ctx, blobs, metadataKey(fmt.Sprintf("%d.targets.json", r.targetsVersion))); err != nil {
		return nil, err
	}
	targets, err := metadata.Targets().FromBytes(r.targetsFile)
	if err == nil {
		err = r.verify(metadata.TARGETS, targets)
	}
	if err != nil || targets.Signed.Version != r.targetsVersion {
		return nil, fmt.Errorf("the stored targets do not verify: %w", err)
	}
	return r, r.read(targets)
}

// loadRoots reads the chain of roots and verifies that each is vouched for by the one before.
func (r *repository) loadRoots(ctx context.Context, blobs Blobs) error {
	stored, err := blobs.List(ctx, "metadata/")
	if err != nil {
		return err
	}
	var versions []int64
	for _, b := range stored {
		name, ok := strings.CutSuffix(strings.TrimPrefix(b.Key, "metadata/"), ".root.json")
		if v, err := strconv.ParseInt(name, 10, 64); ok && err == nil {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	for _, v := range versions {
		b, err := readMetadata(ctx, blobs, rootKey(v))
		if err != nil {
			return err
		}
		if err := r.addRoot(b); err != nil {
			return fmt.Errorf("the stored root %d does not verify: %w", v, err)
		}
	}
	return nil
}

// addRoot verifies a root against the one before, or against itself where it is the first.
func (r *repository) addRoot(b []byte) error {
	var next *metadata.Metadata[metadata.RootType]
	if r.root == nil {
		trusted, err := trustedmetadata.New(b)
		if err != nil {
			return err
		}
		next = trusted.Root
	} else {
		trusted, err := trustedmetadata.New(r.root)
		if err != nil {
			return err
		}
		if next, err = trusted.UpdateRoot(b); err != nil {
			return err
		}
	}
	r.root, r.rootVersion = b, next.Signed.Version
	r.roots = append(r.roots[:len(r.roots):len(r.roots)], next)
	return nil
}

// verify checks signatures against the newest root, or an older one of the chain: a publication that stopped after its
// new root leaves metadata that only the one before vouches for.
func (r *repository) verify(role string, file any) error {
	var err error
	for _, root := range slices.Backward(r.roots) {
		if err = root.VerifyDelegate(role, file); err == nil {
			return nil
		}
	}
	return err
}

func (r *repository) newestRoot() *metadata.Metadata[metadata.RootType] {
	return r.roots[len(r.roots)-1]
}

// read takes the targets apart.
func (r *repository) read(targets *metadata.Metadata[metadata.TargetsType]) error {
	r.targetsExpires = targets.Signed.Expires
	r.targets, r.byPath = nil, map[string]release.Target{}
	for path, file := range targets.Signed.Targets {
		if file == nil || file.Custom == nil {
			return fmt.Errorf("target %q says neither its version nor its channel", path)
		}
		t, err := release.ParseTarget(path, file.Length, file.Hashes["sha256"], *file.Custom)
		if err != nil {
			return err
		}
		r.targets = append(r.targets, t)
		r.byPath[path] = t
	}
	slices.SortFunc(r.targets, func(a, b release.Target) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// seal signs a timestamp over r, and a snapshot where that is wanted, and stores them after the files that they vouch for:
// timestamp last, it is the switch. Nothing changes where somebody else has switched since r was read.
func (s *Service) seal(ctx context.Context, r repository, files []Value, snapshotToo bool) (*repository, error) {
	at := s.clock().UTC().Truncate(time.Second)
	ahead := func(version int64) int64 { return max(version+1, at.Unix()) }
	if snapshotToo {
		r.snapshotVersion, r.snapshotExpires = ahead(r.snapshotVersion), at.Add(SnapshotLifetime)
		snapshot := metadata.Snapshot(r.snapshotExpires)
		snapshot.Signed.Version = r.snapshotVersion
		snapshot.Signed.Meta["targets.json"] = describe(r.targetsVersion, r.targetsFile)
		var err error
		if r.snapshotFile, err = sign(snapshot, s.snapshotKey); err != nil {
			return nil, fmt.Errorf("sign the snapshot: %w", err)
		}
		files = append(files, Value{metadataKey(fmt.Sprintf("%d.snapshot.json", r.snapshotVersion)), r.snapshotFile})
	}
	r.timestampVersion, r.timestampExpires = ahead(r.timestampVersion), at.Add(TimestampLifetime)
	timestamp := metadata.Timestamp(r.timestampExpires)
	timestamp.Signed.Version = r.timestampVersion
	timestamp.Signed.Meta["snapshot.json"] = describe(r.snapshotVersion, r.snapshotFile)
	file, err := sign(timestamp, s.timestampKey)
	if err != nil {
		return nil, fmt.Errorf("sign the timestamp: %w", err)
	}
	if err := s.blobs.Switch(ctx, r.timestampBlob, append(files, Value{Current, file})); err != nil {
		return nil, fmt.Errorf("store the metadata: %w", err)
	}
	now, err := s.blobs.Stat(ctx, Current)
	if err != nil {
		return nil, fmt.Errorf("read the metadata that was stored: %w", err)
	}
	r.timestampBlob = now.Version
	return &r, nil
}

// describe pins a file by version, length and hash, so that a host can bound what it downloads.
func describe(version int64, file []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(file)
	m := metadata.MetaFile(version)
	m.Length, m.Hashes = int64(len(file)), metadata.Hashes{"sha256": sum[:]}
	return m
}

func sign[T metadata.Roles](m *metadata.Metadata[T], key ed25519.PrivateKey) ([]byte, error) {
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if _, err := m.Sign(signer); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}
