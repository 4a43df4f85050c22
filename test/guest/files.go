package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/test/lab"
)

//go:embed files
var inside embed.FS

// modules of the kernel that disk and network need, in the order in which they go in.
var modules = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net"}

// recipe changes when the way of making the files changes.
const recipe = "1"

// prepare makes kernel, initramfs and disk, once for each image of lab, and returns their folder.
func prepare(ctx context.Context, dir string) (string, error) {
	image, err := lab.Image(ctx, dir)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	fmt.Fprintln(digest, recipe, modules, filepath.Base(image))
	err = fs.WalkDir(inside, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := inside.ReadFile(path)
		digest.Write(text)
		return err
	})
	if err != nil {
		return "", err
	}
	made := filepath.Join(filepath.Dir(image), "guest-"+hex.EncodeToString(digest.Sum(nil)[:6]))
	lock, err := os.OpenFile(made+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(made); err == nil {
		return made, nil
	}
	making := made + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", err
	}
	if err := os.MkdirAll(making, 0o700); err != nil {
		return "", err
	}
	if err := build(ctx, making, image); err != nil {
		return "", fmt.Errorf("prepare the guest: %w", err)
	}
	return made, os.Rename(making, made)
}

func build(ctx context.Context, dir, image string) error {
	parts := filepath.Join(dir, "parts")
	if err := os.Mkdir(parts, 0o755); err != nil {
		return err
	}
	// The packages are unpacked, not installed: this computer's own kernel and busybox stay as they are.
	newest, err := run(ctx, parts, "sh", "-c", `apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1`)
	if err == nil && newest == "" {
		if _, err = run(ctx, parts, "apt-get", "-qq", "update"); err == nil {
			newest, err = run(ctx, parts, "sh", "-c", `apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1`)
		}
	}
	if err != nil {
		return err
	}
	if newest == "" {
		return errors.New("the package linux-image-cloud-amd64 is not among the packages that apt knows")
	}
	if _, err := run(ctx, parts, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", newest, "busybox-static"); err != nil {
		return err
	}
	if _, err := run(ctx, parts, "sh", "-c", `for p in *.deb; do dpkg -x "$p" .; rm "$p"; done && mv boot/vmlinuz-* ../kernel`); err != nil {
		return err
	}
	if err := initramfs(ctx, parts, filepath.Join(dir, "initramfs")); err != nil {
		return err
	}
	if _, err := run(ctx, dir, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", image, "disk", "1200M"); err != nil {
		return err
	}
	return os.RemoveAll(parts)
}

func initramfs(ctx context.Context, parts, to string) error {
	tree := filepath.Join(parts, "initramfs")
	for _, d := range []string{"bin", "modules", "proc", "sys", "dev", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"init", "guest-shell", "guest-shell.service"} {
		text, err := inside.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, name), text, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "modules", "order"), []byte(strings.Join(modules, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(parts, "bin", "busybox"), filepath.Join(tree, "bin", "busybox")); err != nil {
		return err
	}
	for _, m := range modules {
		found, err := run(ctx, parts, "find", "lib/modules", "-name", m+".ko")
		if err != nil || found == "" {
			return fmt.Errorf("the kernel has no module %s: %w", m, err)
		}
		if err := os.Rename(filepath.Join(parts, found), filepath.Join(tree, "modules", m+".ko")); err != nil {
			return err
		}
	}
	archive, err := run(ctx, tree, "sh", "-c", "find . | busybox cpio -o -H newc 2>/dev/null")
	if err != nil {
		return err
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(archive)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, zipped.Bytes(), 0o644)
}

// run runs a program and returns what it printed, without the last line's end.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}
