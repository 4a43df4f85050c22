package mirror

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// Bundle writes one file with a copy of what was picked and the install script for it, for hosts that fetch nothing:
// a tar archive, squeezed, of one folder of this name. script is asked for once the version is known, and must name what
// was picked.
func Bundle(ctx context.Context, w io.Writer, o Options, script func(version string) ([]byte, error)) (Copied, error) {
	work, err := os.MkdirTemp("", "loopback-bundle-")
	if err != nil {
		return Copied{}, fmt.Errorf("make a folder for the bundle: %w", err)
	}
	defer os.RemoveAll(work)
	copied, err := Copy(ctx, work, o)
	if err != nil {
		return Copied{}, err
	}
	if len(copied.Targets) == 0 {
		return Copied{}, fault.New(fault.NotFound, "release_not_found", "nothing that is published was picked")
	}
	version := copied.Targets[0].Version
	text, err := script(version)
	if err != nil {
		return Copied{}, err
	}
	for _, t := range copied.Targets {
		if t.Format == release.FormatProgram && !bytes.Contains(text, []byte(hex.EncodeToString(t.SHA256))) {
			return Copied{}, fault.New(fault.Conflict, "bundle_mixed", "the control plane's install script is not for loopback-agent %s", version).
				WithHint("another version was published meanwhile; run this again")
		}
	}
	name := "loopback-" + version
	read := fmt.Sprintf(readme, version, copied.Expires.UTC().Format("2 January 2006, 15:04 UTC"), name)
	for file, b := range map[string][]byte{"install.sh": text, "README.txt": []byte(read)} {
		if err := os.WriteFile(filepath.Join(work, file), b, 0o644); err != nil {
			return Copied{}, fmt.Errorf("make the bundle: %w", err)
		}
	}
	if err := archive(w, work, name, copied.Expires); err != nil {
		return Copied{}, fmt.Errorf("write the bundle: %w", err)
	}
	return copied, nil
}

const readme = `loopback-agent %s, for hosts that cannot fetch it themselves.
Good for installing until %s; then make a new bundle.

    tar -xzf BUNDLE
    sh %s/install.sh --token-file FILE

Everything is verified as it would be at the control plane, which the host still has to reach, or a proxy before it:
sh install.sh --help lists the options.
`

// archive writes the folder. Every file has one time, so that the same copy gives the same bytes.
func archive(w io.Writer, dir, name string, at time.Time) error {
	squeezed := gzip.NewWriter(w)
	t := tar.NewWriter(squeezed)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		in := path.Join(name, filepath.ToSlash(rel))
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: in, Mode: int64(info.Mode().Perm()), Size: int64(len(b)), ModTime: at, Format: tar.FormatGNU}); err != nil {
			return err
		}
		_, err = t.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return squeezed.Close()
}
