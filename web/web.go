// Package web holds the console as it was built: what vite made of src/, embedded. A loopbackd that was built without it
// (go build alone, no npm) has an empty folder here, and says so with a page that names the command line's ways.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Files are the built console; index.html is absent where it was not built.
func Files() fs.FS {
	built, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the folder is named above
	}
	return built
}
