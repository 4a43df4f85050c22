// Package openapi serves the API's description: openapi.yaml for programs, and a page for people that asks nobody else
// for anything. Both are written from the .proto files when code is generated, and so say what this program does.
package openapi

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.yaml
var description []byte

//go:embed reference.html
var reference []byte

//go:embed docs.css
var style []byte

// Handler serves /openapi.yaml, /docs and /docs.css; mount it behind http.StripPrefix("/api", …).
func Handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(path, contentType string, content []byte) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", contentType)
			h.Set("Cache-Control", "no-cache")
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
			_, _ = w.Write(content) // a reader that left needs no answer
		})
	}
	serve("/openapi.yaml", "application/yaml; charset=utf-8", description)
	serve("/docs", "text/html; charset=utf-8", reference)
	serve("/docs.css", "text/css; charset=utf-8", style)
	return mux
}
