// Package console serves the web console and keeps its sign-in.
//
// The console is a client like any other: it calls the same API as the command line. Two things are its own. Its files are
// built apart and embedded (package web); where they are missing, a page names the command line's ways. And since a page
// must not hold a credential that a script could read, a sign-in's is in a cookie (see Sessions).
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed unbuilt.html
var unbuilt string

// policy lets a page run what this server sent, and talk to nobody else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the built console: its files by their names, and its one page for every other path, since the page's own
// router reads the address. Paths of the API answer 404 in plain text and never the page.
func Handler(files fs.FS) http.Handler {
	page, err := fs.ReadFile(files, "index.html")
	if err != nil {
		return static([]byte(unbuilt), "default-src 'none'; style-src '"+styleHash(unbuilt)+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	}
	index := static(page, policy)
	small := squeeze(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		file, err := files.Open(name)
		if err != nil || name == "" || name == "index.html" {
			if strings.HasPrefix(name, "assets/") || !strings.Contains(r.Header.Get("Accept"), "text/html") && name != "" {
				http.Error(w, "not found; the API is under /api/, its description at /api/docs", http.StatusNotFound)
				return
			}
			index.ServeHTTP(w, r)
			return
		}
		defer file.Close()
		info, err := file.Stat()
		content, ok := file.(io.ReadSeeker)
		if err != nil || info.IsDir() || !ok {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		h := w.Header()
		secure(h, policy)
		if kind := mime.TypeByExtension(path.Ext(name)); kind != "" {
			h.Set("Content-Type", kind)
		}
		if strings.HasPrefix(name, "assets/") { // named for their contents
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		if packed, ok := small[name]; ok {
			h.Add("Vary", "Accept-Encoding")
			if acceptsGzip(r.Header.Get("Accept-Encoding")) && r.Header.Get("Range") == "" {
				h.Set("Content-Encoding", "gzip")
				content = bytes.NewReader(packed)
			}
		}
		http.ServeContent(w, r, name, time.Time{}, content)
	})
}

// squeeze packs the texts among the files once, so that a phone in a data centre waits for a third of them.
func squeeze(files fs.FS) map[string][]byte {
	out := map[string][]byte{}
	_ = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".js", ".css", ".svg"}, path.Ext(name)) {
			return nil // what cannot be read is not packed; asking for it says why
		}
		text, err := fs.ReadFile(files, name)
		if err != nil || len(text) < 1024 {
			return nil
		}
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // a level that exists
		if _, err := z.Write(text); err == nil && z.Close() == nil && b.Len() < len(text) {
			out[name] = b.Bytes()
		}
		return nil
	})
	return out
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3) as far as it matters here.
func acceptsGzip(header string) bool {
	for _, part := range strings.Split(header, ",") {
		name, rest, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			weight := strings.ReplaceAll(rest, " ", "")
			return weight != "q=0" && weight != "q=0.0" && weight != "q=0.00" && weight != "q=0.000"
		}
	}
	return false
}

// static serves one page at every path that a browser would open.
func static(page []byte, policy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" && !strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.Error(w, "not found; the API is under /api/, its description at /api/docs", http.StatusNotFound)
			return
		}
		h := w.Header()
		secure(h, policy)
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(page)))
	})
}

func secure(h http.Header, policy string) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
}

// styleHash allows a page's own style and no other.
func styleHash(page string) string {
	_, rest, _ := strings.Cut(page, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
