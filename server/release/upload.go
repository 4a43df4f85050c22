package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// Bounds of an upload.
const (
	MaxPart        = 2 << 20        // bytes in one part
	uploadLifetime = 24 * time.Hour // of a part that no other followed
)

// Part is a piece of an artefact.
type Part struct {
	SHA256 string // of the whole, hexadecimal
	Length int64  // of the whole
	Offset int64
	Data   []byte // empty: only asks how much is there
}

var errHash = fault.New(fault.Invalid, "artefact_corrupt", "what was uploaded does not have the stated SHA-256").
	WithHint("nothing of it was kept; upload it again")

// Upload stores a part and says how much of the artefact is there: where the next part must begin. A part that begins
// elsewhere is not stored, whether it is a repetition or runs ahead; the answer tells its sender where to go on. With the
// last part the whole is hashed; where the hash is not the stated one, all of it is dropped.
func (s *Service) Upload(ctx context.Context, p Part) (offset int64, complete bool, err error) {
	if err := mayPublish(ctx); err != nil {
		return 0, false, err
	}
	if err := p.validate(); err != nil {
		return 0, false, err
	}
	ctx, done, err := s.alone(ctx)
	if err != nil {
		return 0, false, err
	}
	defer done()
	if b, err := s.blobs.Stat(ctx, artefactKey(p.SHA256)); err == nil && b.Size == p.Length {
		return p.Length, true, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, false, err
	}
	parts, have, err := s.parts(ctx, p.SHA256)
	if err != nil {
		return 0, false, err
	}
	if have < p.Length {
		if p.Offset != have || len(p.Data) == 0 {
			return have, false, nil
		}
		part := release.Blob{Key: fmt.Sprintf("%s%016x", uploadPrefix(p.SHA256), have), Size: int64(len(p.Data))}
		if err := s.blobs.Put(ctx, part.Key, bytes.NewReader(p.Data), part.Size); err != nil {
			return 0, false, fmt.Errorf("store a part of an artefact: %w", err)
		}
		parts, have = append(parts, part), have+part.Size
	}
	if have < p.Length {
		return have, false, nil
	}
	if err := s.assemble(ctx, p, parts, have); err != nil {
		return 0, false, err
	}
	return p.Length, true, nil
}

func (p Part) validate() error {
	var c fault.Check
	raw, err := hex.DecodeString(p.SHA256)
	c.That(err == nil && len(raw) == sha256.Size && p.SHA256 == strings.ToLower(p.SHA256), "sha256", "is not 64 lower-case hexadecimal digits")
	c.That(p.Length > 0 && p.Length <= release.MaxLength, "length", "is %d; allowed are 1 to %d", p.Length, release.MaxLength)
	c.That(p.Offset >= 0 && p.Offset <= p.Length, "offset", "is %d, outside of the artefact", p.Offset)
	c.That(len(p.Data) <= MaxPart, "data", "has %d bytes; a part has at most %d", len(p.Data), MaxPart)
	c.That(p.Offset < 0 || int64(len(p.Data)) <= p.Length-p.Offset, "data", "goes beyond the stated length")
	return c.Err("artefact_invalid", "the part of the artefact is not valid")
}

// parts are the parts in order and up to where they reach without a gap.
func (s *Service) parts(ctx context.Context, sum string) (parts []release.Blob, have int64, err error) {
	all, err := s.blobs.List(ctx, uploadPrefix(sum))
	if err != nil {
		return nil, 0, err
	}
	for _, b := range all {
		at, err := strconv.ParseInt(strings.TrimPrefix(b.Key, uploadPrefix(sum)), 16, 64)
		if err != nil || at != have {
			break
		}
		parts, have = append(parts, b), have+b.Size
	}
	return parts, have, nil
}

// assemble joins the parts into the artefact. They are read twice, so that a blob under an artefact's key always has
// the hash that the key says.
func (s *Service) assemble(ctx context.Context, p Part, parts []release.Blob, have int64) error {
	hash := sha256.New()
	if _, err := io.Copy(hash, &joined{ctx: ctx, blobs: s.blobs, parts: parts}); err != nil {
		return fmt.Errorf("hash an uploaded artefact: %w", err)
	}
	if have != p.Length || hex.EncodeToString(hash.Sum(nil)) != p.SHA256 {
		if err := s.dropUpload(ctx, p.SHA256); err != nil {
			return err
		}
		return errHash
	}
	if err := s.blobs.Put(ctx, artefactKey(p.SHA256), &joined{ctx: ctx, blobs: s.blobs, parts: parts}, have); err != nil {
		return fmt.Errorf("store an artefact: %w", err)
	}
	return s.dropUpload(ctx, p.SHA256)
}

func (s *Service) dropUpload(ctx context.Context, sum string) error {
	all, err := s.blobs.List(ctx, uploadPrefix(sum))
	for _, b := range all {
		err = errors.Join(err, s.blobs.Delete(ctx, b.Key))
	}
	return err
}

// sweepUploads removes uploads whose newest part is older than a day.
func (s *Service) sweepUploads(ctx context.Context) error {
	all, err := s.blobs.List(ctx, "uploads/")
	if err != nil || len(all) == 0 {
		return err
	}
	ctx, done, err := s.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	if all, err = s.blobs.List(ctx, "uploads/"); err != nil { // some of it may have come to its end
		return err
	}
	newest := map[string]time.Time{}
	for _, b := range all {
		sum := strings.Split(b.Key, "/")[1]
		if b.Modified.After(newest[sum]) {
			newest[sum] = b.Modified
		}
	}
	for sum, at := range newest {
		if s.clock().Sub(at) > uploadLifetime {
			err = errors.Join(err, s.dropUpload(ctx, sum))
		}
	}
	return err
}

func artefactKey(sum string) string  { return "artefacts/" + sum }
func uploadPrefix(sum string) string { return "uploads/" + sum + "/" }

// joined reads blobs one after the other.
type joined struct {
	ctx   context.Context
	blobs Blobs
	parts []release.Blob
	open  io.ReadCloser
}

func (j *joined) Read(p []byte) (int, error) {
	for {
		if j.open == nil {
			if len(j.parts) == 0 {
				return 0, io.EOF
			}
			var err error
			if j.open, err = j.blobs.Open(j.ctx, j.parts[0].Key, 0); err != nil {
				return 0, err
			}
			j.parts = j.parts[1:]
		}
		n, err := j.open.Read(p)
		if errors.Is(err, io.EOF) {
			err = j.open.Close()
			j.open = nil
		} else if err != nil {
			err = errors.Join(err, j.open.Close())
			j.open = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}
