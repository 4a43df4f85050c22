package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// suite is the Debian release that machines run.
const suite = "bookworm"

// packages is what an ordinary small Debian server has beyond the minimal
// base; no compilers, and no udev, for which networkd would wait for ever.
var packages = []string{
	"ca-certificates", "curl", "dbus", "gnupg", "iproute2", "iputils-ping", "kmod", "less",
	"libpam-systemd", "netbase", "nftables", "openssl", "procps", "sudo",
	"systemd", "systemd-sysv", "wget", "xz-utils",
}

// imageRecipe changes when the way images are built changes, so that cached ones are not reused.
const imageRecipe = "1"

// Image returns the folder of a Debian root file system under dir ("" means
// [DefaultDir]), building it with debootstrap if it is not there: about a
// minute and 300 MB, once for each package list. Several processes may ask at
// once; one builds, the others wait. A build that was interrupted is thrown
// away by the next one.
//
// Packages come from wherever this machine's own apt takes them.
func Image(ctx context.Context, dir string) (string, error) {
	root, err := resolveDir(dir)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(strings.Join(append([]string{imageRecipe, suite, runtime.GOARCH}, packages...), "\n")))
	image := filepath.Join(root, "image-"+hex.EncodeToString(digest[:6]))
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	lock, err := waitLock(ctx, image+".lock")
	if err != nil {
		return "", fmt.Errorf("build image: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	if err := build(ctx, image, lock); err != nil {
		return "", fmt.Errorf("build image: %w", err)
	}
	return image, nil
}

func build(ctx context.Context, image string, lock *os.File) error {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return &Unsupported{Feature: "debootstrap", Detail: "package debootstrap"}
	}
	proxy := aptProxy(ctx)
	mirror, err := findMirror(ctx, aptSources(), proxy)
	if err != nil {
		return err
	}
	building := image + ".building"
	if err := os.RemoveAll(building); err != nil {
		return fmt.Errorf("remove an interrupted build: %w", err)
	}
	downloads := filepath.Join(filepath.Dir(image), "downloads")
	if err := os.MkdirAll(downloads, 0o755); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "debootstrap", "--variant=minbase",
		"--include="+strings.Join(packages, ","), "--cache-dir="+downloads, suite, building, mirror)
	command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	if proxy != "" {
		command.Env = append(command.Env, "http_proxy="+proxy, "https_proxy="+proxy)
	}
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	// debootstrap inherits the lock: if we are killed, nobody starts anew
	// before it has ended. Its own mount namespace takes the mounts it makes
	// inside the tree with it, so that removing the tree never reaches /proc.
	command.ExtraFiles = []*os.File{lock}
	command.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Unshareflags: unix.CLONE_NEWNS}
	command.Cancel = func() error { return unix.Kill(-command.Process.Pid, unix.SIGKILL) }
	command.WaitDelay = 10 * time.Second
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("debootstrap: %w\n%s", err, lastLines(output.String(), 15))
	}
	if err := finish(building); err != nil {
		return err
	}
	return os.Rename(building, image)
}

// finish takes out what must differ from machine to machine, or what came from this one.
func finish(tree string) error {
	for _, file := range []string{"etc/machine-id", "etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id"} {
		if err := os.Remove(filepath.Join(tree, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// A server keeps its journal over reboots; the folder makes journald do so.
	if err := os.MkdirAll(filepath.Join(tree, "var/log/journal"), 0o2755); err != nil {
		return err
	}
	downloads, err := filepath.Glob(filepath.Join(tree, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, each := range downloads {
		if err := os.Remove(each); err != nil {
			return err
		}
	}
	return nil
}

// aptSources returns the text of this machine's apt sources, the .list form and the .sources form.
func aptSources() (texts []aptText) {
	paths := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list"} {
		found, _ := filepath.Glob(pattern)
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			texts = append(texts, aptText{text: string(text), paragraphs: strings.HasSuffix(path, ".sources")})
		}
	}
	return texts
}

type aptText struct {
	text       string
	paragraphs bool
}

// archives returns the addresses of all package archives, those that name our
// suite first, in the order of the files otherwise.
func archives(texts []aptText) []string {
	var first, later []string
	add := func(addresses, suites []string) {
		for _, address := range addresses {
			address = strings.TrimSuffix(address, "/")
			if !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "https://") {
				continue
			}
			list := &later
			for _, each := range suites {
				if each == suite {
					list = &first
				}
			}
			*list = append(*list, address)
		}
	}
	for _, each := range texts {
		if each.paragraphs {
			parseParagraphs(each.text, add)
		} else {
			parseLines(each.text, add)
		}
	}
	return append(first, later...)
}

// parseLines reads one-line sources: deb [options] address suite component...
func parseLines(text string, add func(addresses, suites []string)) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		// Blanks may be tabs; the options may hold blanks.
		rest, found := strings.CutPrefix(strings.Join(strings.Fields(line), " "), "deb ")
		if !found {
			continue
		}
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if fields := strings.Fields(rest); len(fields) >= 2 {
			add(fields[:1], fields[1:2])
		}
	}
}

// parseParagraphs reads deb822 sources: paragraphs of "Field: values", a value
// going on in lines that begin with a blank.
func parseParagraphs(text string, add func(addresses, suites []string)) {
	fields, last := map[string]string{}, ""
	end := func() {
		enabled := !strings.EqualFold(strings.TrimSpace(fields["enabled"]), "no")
		if enabled && strings.Contains(" "+fields["types"]+" ", " deb ") {
			add(strings.Fields(fields["uris"]), strings.Fields(fields["suites"]))
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += " " + strings.TrimSpace(line)
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = " " + strings.TrimSpace(value)
		}
	}
	end()
}

// aptProxy is the proxy that apt is set to use, "" if none.
func aptProxy(ctx context.Context) string {
	output, err := exec.CommandContext(ctx, "apt-config", "shell", "proxy", "Acquire::http::Proxy").Output()
	if err != nil {
		return ""
	}
	value := strings.TrimPrefix(strings.TrimSpace(string(output)), "proxy=")
	return strings.Trim(value, "'\"")
}

// findMirror asks each archive for our suite and returns the first that is Debian's.
func findMirror(ctx context.Context, texts []aptText, proxy string) (string, error) {
	client := &http.Client{Timeout: 20 * time.Second}
	if proxy != "" {
		address, err := url.Parse(proxy)
		if err != nil {
			return "", fmt.Errorf("apt's proxy: %w", err)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy = http.ProxyURL(address)
		client.Transport = transport
	}
	var tried []error
	seen := map[string]bool{}
	for _, address := range archives(texts) {
		if seen[address] {
			continue
		}
		seen[address] = true
		err := holdsSuite(ctx, client, address)
		if err == nil {
			return address, nil
		}
		tried = append(tried, fmt.Errorf("%s: %w", address, err))
	}
	if len(tried) == 0 {
		return "", errors.New("no http archive in this machine's apt sources to take Debian packages from")
	}
	return "", fmt.Errorf("no archive in this machine's apt sources holds Debian %s: %w", suite, errors.Join(tried...))
}

func holdsSuite(ctx context.Context, client *http.Client, archive string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, archive+"/dists/"+suite+"/InRelease", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	head, err := io.ReadAll(io.LimitReader(response.Body, 2048))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if !bytes.Contains(head, []byte("\nOrigin: Debian\n")) {
		return errors.New("not Debian's own")
	}
	return nil
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
