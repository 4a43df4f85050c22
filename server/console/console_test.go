package console

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFilesAreServedByNameAndThePageElsewhere(t *testing.T) {
	files := fstest.MapFS{"index.html": {Data: []byte("<!doctype html>page")}, "assets/a-1.js": {Data: []byte("code")}, "icon.svg": {Data: []byte("<svg/>")}}
	h := Handler(files)
	get := func(path, accept string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{"/", "/hosts", "/hosts/hst_1", "/index.html"} {
		a := get(path, "text/html,*/*")
		body, _ := io.ReadAll(a.Body)
		if a.StatusCode != 200 || !strings.Contains(string(body), "page") || !strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src 'self'") || a.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %s %v", path, a.StatusCode, body, a.Header)
		}
	}
	if a := get("/assets/a-1.js", "*/*"); a.StatusCode != 200 || !strings.Contains(a.Header.Get("Content-Type"), "javascript") || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("a script: %d %v", a.StatusCode, a.Header)
	}
	large := strings.Repeat("function f() { return 1 }\n", 200)
	packed := Handler(fstest.MapFS{"index.html": {Data: []byte("page")}, "assets/b-2.js": {Data: []byte(large)}})
	for header, want := range map[string]string{"br, gzip": "gzip", "gzip;q=0": "", "": "", "identity": ""} {
		r := httptest.NewRequest("GET", "/assets/b-2.js", nil)
		r.Header.Set("Accept-Encoding", header)
		w := httptest.NewRecorder()
		packed.ServeHTTP(w, r)
		body := io.Reader(w.Body)
		if want == "gzip" {
			z, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatalf("%q: %v", header, err)
			}
			body = z
		}
		text, err := io.ReadAll(body)
		if err != nil || string(text) != large || w.Header().Get("Content-Encoding") != want || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: got %d bytes as %q, %v; want the script as %q", header, len(text), w.Header().Get("Content-Encoding"), err, want)
		}
	}
	for _, path := range []string{"/assets/gone.js", "/assets/", "/nothing.json"} {
		if a := get(path, "*/*"); a.StatusCode != 404 {
			t.Errorf("%s: got %d, want 404", path, a.StatusCode)
		}
	}
	unbuilt := httptest.NewRecorder()
	Handler(fstest.MapFS{}).ServeHTTP(unbuilt, httptest.NewRequest("GET", "/", nil))
	if !strings.Contains(unbuilt.Body.String(), "loopback token mint") {
		t.Error("without a built console there is no page that names the command line")
	}
}
