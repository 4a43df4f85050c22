package release

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"
)

var metadataName = regexp.MustCompile(`^([1-9][0-9]{0,18}\.(root|snapshot|targets)|timestamp)\.json$`)

// ServeHTTP serves /dl/metadata/FILE and /dl/targets/PATH to anybody: all of it is public and signed. Artefacts answer
// to their plain path and to the one with the hash in front of the file's name, which TUF clients ask for; ranges are
// served, so that an interrupted download goes on.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if name, ok := strings.CutPrefix(r.URL.Path, "/dl/metadata/"); ok && metadataName.MatchString(name) {
		s.serveMetadata(w, r, name)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/dl/targets/"); ok {
		s.serveTarget(w, r, name)
		return
	}
	notFound(w)
}

func notFound(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store") // it may be published the next moment
	http.Error(w, "there is no such file", http.StatusNotFound)
}

func (s *Service) serveMetadata(w http.ResponseWriter, r *http.Request, name string) {
	b, err := readMetadata(r.Context(), s.blobs, metadataKey(name))
	if errors.Is(err, fs.ErrNotExist) {
		notFound(w)
		return
	}
	if err != nil {
		s.unreadable(w, name, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(b))
}

func (s *Service) unreadable(w http.ResponseWriter, name string, err error) {
	s.log.Error("cannot read what is published", "name", name, "error", err)
	http.Error(w, "the file cannot be read just now", http.StatusInternalServerError)
}

func (s *Service) serveTarget(w http.ResponseWriter, r *http.Request, name string) {
	dir, base := path.Split(name)
	sum, plain, hashed := strings.Cut(base, ".")
	if hashed = hashed && len(sum) == 64; hashed {
		name = dir + plain
	}
	t, ok := s.current.Load().byPath[name]
	if !ok { // another replica may have published it this moment; its metadata is served here already
		if err := s.refresh(r.Context()); err != nil {
			s.unreadable(w, name, err)
			return
		}
		t, ok = s.current.Load().byPath[name]
	}
	if !ok || hashed && sum != hex.EncodeToString(t.SHA256) {
		notFound(w)
		return
	}
	key := artefactKey(hex.EncodeToString(t.SHA256))
	if _, err := s.blobs.Stat(r.Context(), key); err != nil {
		s.unreadable(w, name, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment; filename="+path.Base(t.Path))
	w.Header().Set("ETag", `"`+hex.EncodeToString(t.SHA256)+`"`)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // a path never means other bytes
	body := &seeker{ctx: r.Context(), blobs: s.blobs, key: key, size: t.Length}
	defer body.close()
	http.ServeContent(w, r, t.Name, time.Time{}, body)
}

// seeker reads a blob of known size from wherever it was sought to.
type seeker struct {
	ctx   context.Context
	blobs Blobs
	key   string
	size  int64
	at    int64
	open  io.ReadCloser
}

func (s *seeker) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	if offset != s.at {
		s.close()
	}
	s.at = offset
	return offset, nil
}

func (s *seeker) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	if s.open == nil {
		var err error
		if s.open, err = s.blobs.Open(s.ctx, s.key, s.at); err != nil {
			return 0, err
		}
	}
	n, err := s.open.Read(p)
	s.at += int64(n)
	return n, err
}

func (s *seeker) close() {
	if s.open != nil {
		_ = s.open.Close() // it was only read
		s.open = nil
	}
}
