package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// targets is what a publication builds upon.
type targets struct {
	file []byte // as signed; nil: never yet
	meta *metadata.Metadata[metadata.TargetsType]
}

// baseTargets are the newer of the folder's targets and the control plane's. The latter count only if these keys signed
// them: the control plane cannot slip in a program between two publications.
func (k *Keys) baseTargets(roots []root, theirs Metadata) (*targets, error) {
	newest := &targets{meta: metadata.Targets()}
	newest.meta.Signed.Version = 0
	ours, err := k.read(targetsName)
	if err != nil && !asMissing(err) {
		return nil, err
	}
	for _, file := range [][]byte{ours, theirs.Files[targetsName]} {
		if file == nil {
			continue
		}
		meta, err := metadata.Targets().FromBytes(file)
		if err == nil {
			err = k.signedByUs(roots, meta)
		}
		if err != nil {
			return nil, errNotSigned.WithCause(err)
		}
		switch {
		case meta.Signed.Version > newest.meta.Signed.Version:
			newest = &targets{file, meta}
		case meta.Signed.Version == newest.meta.Signed.Version && !bytes.Equal(file, newest.file):
			return nil, fault.New(fault.Conflict, "publisher_targets_differ", "targets %d of the control plane are not those that were signed in this folder", meta.Signed.Version).
				WithHint("two folders with the same keys published apart; go on with the one that the control plane knows, after copying its targets.json over this one's")
		}
	}
	return newest, nil
}

// signedByUs accepts what any root of the chain would: the newest may have replaced the targets' key a moment ago.
func (k *Keys) signedByUs(roots []root, meta *metadata.Metadata[metadata.TargetsType]) error {
	err := errors.New("there is no root")
	for i := len(roots) - 1; i >= 0; i-- {
		if err = roots[i].meta.VerifyDelegate(metadata.TARGETS, meta); err == nil {
			return nil
		}
	}
	return err
}

func (t *targets) due(now time.Time) bool {
	return t.file == nil || t.meta.Signed.Expires.Sub(now) < TargetsLifetime/2
}

// add enters the files. One that is there already with the same bytes changes nothing; with other bytes it is refused.
func (t *targets) add(files measured) (changed bool, err error) {
	for _, f := range files {
		custom, err := f.target.Custom()
		if err != nil {
			return false, err
		}
		raw := json.RawMessage(custom)
		next := &metadata.TargetFiles{Length: f.target.Length, Hashes: metadata.Hashes{"sha256": f.target.SHA256}, Custom: &raw, Path: f.target.Path}
		old, ok := t.meta.Signed.Targets[f.target.Path]
		if ok && (old.Length != next.Length || !bytes.Equal(old.Hashes["sha256"], next.Hashes["sha256"])) {
			return false, fault.New(fault.Conflict, "release_changed", "%s is published already, as another file", f.target.Path).
				WithHint("what is published never changes; give %s a new version", f.artefact.File)
		}
		if ok && old.Custom != nil {
			was, err := release.ParseTarget(f.target.Path, old.Length, old.Hashes["sha256"], *old.Custom)
			if err != nil {
				return false, err
			}
			if was.Channel == f.target.Channel {
				continue
			}
			if was.Channel == release.Stable {
				return false, fault.New(fault.Conflict, "release_changed", "%s is stable already and cannot go back to %s", f.target.Path, f.target.Channel)
			}
		}
		t.meta.Signed.Targets[f.target.Path] = next
		changed = true
	}
	return changed, nil
}

func (k *Keys) signTargets(base *targets) ([]byte, error) {
	key, err := k.targetsSigner()
	if err != nil {
		return nil, err
	}
	base.meta.Signed.Version++
	base.meta.Signed.Expires = k.clock().UTC().Truncate(time.Second).Add(TargetsLifetime)
	file, err := sign(base.meta, key)
	if err != nil {
		return nil, fmt.Errorf("sign the targets: %w", err)
	}
	return file, k.write(targetsName, file)
}

// measured are the artefacts, opened and hashed.
type measured []*file

type file struct {
	artefact Artefact
	target   release.Target
	open     *os.File
}

func measure(artefacts []Artefact) (measured, error) {
	var out measured
	seen := map[string]string{}
	for _, a := range artefacts {
		f := &file{artefact: a}
		open, err := os.Open(a.File)
		if err != nil {
			return out, fault.New(fault.Invalid, "artefact_unreadable", "the artefact cannot be read").WithCause(err)
		}
		f.open = open
		out = append(out, f)
		hash := sha256.New()
		n, err := io.Copy(hash, io.LimitReader(open, release.MaxLength+1))
		if err != nil {
			return out, fault.New(fault.Invalid, "artefact_unreadable", "the artefact cannot be read").WithCause(err)
		}
		f.target = release.Target{
			Name: a.Name, Version: a.Version, OS: a.OS, Architecture: a.Architecture, Channel: a.Channel, Format: a.Format,
			Length: n, SHA256: hash.Sum(nil),
		}
		f.target.Path = f.target.FilePath()
		if err := f.target.Validate(); err != nil {
			return out, fault.New(fault.Invalid, "artefact_invalid", "%s cannot be published", a.File).WithCause(err)
		}
		if other, ok := seen[f.target.Path]; ok {
			return out, fault.New(fault.Invalid, "artefact_invalid", "%s and %s would both be %s", other, a.File, f.target.Path)
		}
		seen[f.target.Path] = a.File
	}
	return out, nil
}

func (m measured) close() {
	for _, f := range m {
		_ = f.open.Close() // it was only read
	}
}

const (
	partSize    = 1 << 20
	maxFailures = 6 // in a row, each a doubled wait after the one before
	firstWait   = 250 * time.Millisecond
)

// upload sends the file from where the control plane says it has got to. It goes on after failures that may pass.
func (f *file) upload(ctx context.Context, s Service, progress func(Progress)) error {
	sum := hex.EncodeToString(f.target.SHA256)
	failures, wait := 0, firstWait
	at, ask := int64(0), true
	buffer := make([]byte, partSize)
	for {
		part := buffer[:0]
		if !ask {
			n, err := f.open.ReadAt(buffer[:min(partSize, f.target.Length-at)], at)
			if err != nil && !errors.Is(err, io.EOF) || n == 0 {
				return fault.New(fault.Invalid, "artefact_unreadable", "%s became shorter while it was uploaded", f.artefact.File).WithCause(err)
			}
			part = buffer[:n]
		}
		next, complete, err := s.Upload(ctx, sum, f.target.Length, at, part)
		switch kind := fault.KindOf(err); {
		case err == nil && complete:
			progress(Progress{"upload", f.target.Path, f.target.Length, f.target.Length})
			return nil
		case err == nil && (next < 0 || next >= f.target.Length):
			return fault.New(fault.Internal, "upload_confused", "the control plane wants %s from byte %d on, which it does not have", f.target.Path, next)
		case err == nil && (next > at || ask):
			failures, wait = 0, firstWait
		case err == nil: // no part was taken: somebody else uploads the same, or dropped it
			failures++
		case kind == fault.Unavailable || kind == fault.Timeout && ctx.Err() == nil:
			failures++
		default:
			return fmt.Errorf("upload %s: %w", f.target.Path, err)
		}
		if failures >= maxFailures {
			if err == nil {
				err = fault.New(fault.Unavailable, "upload_stuck", "the control plane takes no more of %s", f.target.Path)
			}
			return fmt.Errorf("upload %s: %w", f.target.Path, err)
		}
		if failures > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-timer.C:
			}
			wait *= 2
		}
		if err != nil {
			at, ask = 0, true // the answer may be lost and the part there
			continue
		}
		at, ask = next, false
		progress(Progress{"upload", f.target.Path, at, f.target.Length})
	}
}
