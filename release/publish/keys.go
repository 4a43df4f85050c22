package publish

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
)

const (
	keysName    = "keys.json"
	targetsName = "targets.json"
)

// Keys is a publisher's folder.
type Keys struct {
	dir    string
	public public
	clock  func() time.Time
}

// public is who may sign.
type public struct {
	Root      []ed25519.PublicKey `json:"root"`
	Threshold int                 `json:"threshold"` // how many of Root must sign a root
	Targets   ed25519.PublicKey   `json:"targets"`
}

// maxRootKeys is more than any ceremony wants.
const maxRootKeys = 16

var errMissing = fault.New(fault.Precondition, "publisher_keys_missing", "there are no publisher's keys in this folder").
	WithHint("name the folder that holds them")

// Create makes keys in a folder, which must be missing or empty: rootKeys for the root, of which threshold must sign, and
// one for the targets. One of one suits a demonstration; two of three, kept apart, a company.
func Create(dir string, rootKeys, threshold int) (*Keys, error) {
	if threshold < 1 || threshold > rootKeys || rootKeys > maxRootKeys {
		return nil, fault.New(fault.Invalid, "publisher_threshold_invalid", "%d of %d root keys makes no sense", threshold, rootKeys).
			WithHint("give 1 to %d keys and a threshold that is no more than that", maxRootKeys)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of keys: %w", err)
	}
	k := &Keys{dir: dir, clock: time.Now}
	unlock, err := k.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(k.path(keysName)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Exists, "publisher_keys_exist", "%s holds keys already", dir).WithHint("use them, or name an empty folder")
	}
	k.public.Threshold = threshold
	for i := range rootKeys {
		key, err := k.generate(rootKeyName(i))
		if err != nil {
			return nil, err
		}
		k.public.Root = append(k.public.Root, key)
	}
	if k.public.Targets, err = k.generate(targetsKeyName); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(k.public, "", "  ")
	if err != nil {
		return nil, err
	}
	return k, k.write(keysName, append(b, '\n')) // last: a folder without it was not finished, and is made anew
}

// Open reads who may sign. Private keys are read when they are needed.
func Open(dir string) (*Keys, error) {
	k := &Keys{dir: dir, clock: time.Now}
	b, err := k.read(keysName)
	if err != nil {
		return nil, err
	}
	damaged := fault.New(fault.Precondition, "publisher_keys_damaged", "%s cannot be read", k.path(keysName)).WithHint("restore it from a copy")
	if err := json.Unmarshal(b, &k.public); err != nil {
		return nil, damaged.WithCause(err)
	}
	p := k.public
	if p.Threshold < 1 || p.Threshold > len(p.Root) || len(p.Root) > maxRootKeys ||
		slices.ContainsFunc(append(slices.Clone(p.Root), p.Targets), func(key ed25519.PublicKey) bool { return len(key) != ed25519.PublicKeySize }) {
		return nil, damaged
	}
	return k, nil
}

// WithClock returns keys that sign by another clock.
func (k *Keys) WithClock(clock func() time.Time) *Keys {
	c := *k
	c.clock = clock
	return &c
}

func rootKeyName(i int) string { return fmt.Sprintf("root-%d.key", i+1) }

const targetsKeyName = "targets.key"

func (k *Keys) path(name string) string { return filepath.Join(k.dir, name) }

func (k *Keys) generate(name string) (ed25519.PublicKey, error) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return pub, k.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// private reads a key, which must be the one with this public half and nobody else's to read.
func (k *Keys) private(name string, want ed25519.PublicKey) (ed25519.PrivateKey, error) {
	info, err := os.Stat(k.path(name))
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Precondition, "publisher_key_exposed", "%s can be read by others", k.path(name)).
			WithHint("chmod 600 %s; if somebody may have read it, replace the key", k.path(name))
	}
	b, err := os.ReadFile(k.path(name))
	if err != nil {
		return nil, err
	}
	wrong := fault.New(fault.Precondition, "publisher_key_wrong", "%s is not the key that %s names", k.path(name), keysName)
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, wrong
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, wrong.WithCause(err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok || !want.Equal(private.Public()) {
		return nil, wrong
	}
	return private, nil
}

// rootSigners are the root's private keys that are in the folder.
func (k *Keys) rootSigners() ([]ed25519.PrivateKey, error) {
	var out []ed25519.PrivateKey
	for i, pub := range k.public.Root {
		key, err := k.private(rootKeyName(i), pub)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	return out, nil
}

func (k *Keys) targetsSigner() (ed25519.PrivateKey, error) {
	key, err := k.private(targetsKeyName, k.public.Targets)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Precondition, "publisher_keys_missing", "%s is not here", k.path(targetsKeyName)).
			WithHint("put the targets key into the folder")
	}
	return key, err
}

// readRoots reads the chain in the folder and verifies it.
func (k *Keys) readRoots() ([]root, error) {
	var out []root
	for version := int64(1); ; version++ {
		file, err := k.read(rootName(version))
		if asMissing(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var next root
		if len(out) == 0 {
			trusted, err := trustedmetadata.New(file)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", k.path(rootName(version)), err)
			}
			next = root{file, trusted.Root}
			if err := k.isOurs(next); err != nil {
				return nil, err
			}
		} else if next, err = follow(out[len(out)-1], file); err != nil {
			return nil, err
		}
		out = append(out, next)
	}
}

// Root is the newest root in the folder.
func (k *Keys) Root() ([]byte, error) {
	roots, err := k.readRoots()
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, fault.New(fault.Precondition, "publisher_root_missing", "no root was signed with these keys yet").
			WithHint("publish the agent first, which signs one: loopback release publish")
	}
	return roots[len(roots)-1].file, nil
}

// isOurs demands that the keys of the folder are those that signed its first root.
func (k *Keys) isOurs(first root) error {
	ours, err := keyIDs(k.public.Root)
	if err != nil {
		return err
	}
	for _, keyID := range first.meta.Signed.Roles[metadata.ROOT].KeyIDs {
		if slices.Contains(ours, keyID) {
			return nil
		}
	}
	return fault.New(fault.Precondition, "publisher_root_differs", "the roots in this folder are not signed by its keys").
		WithHint("two folders were mixed; restore this one from a copy")
}

func (k *Keys) read(name string) ([]byte, error) {
	b, err := os.ReadFile(k.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMissing.WithCause(err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the folder of keys: %w", err)
	}
	return b, nil
}

// write replaces a file whole, readable by its owner alone.
func (k *Keys) write(name string, b []byte) error {
	if err := durable.WriteFile(k.path(name), b, 0o600); err != nil {
		return fmt.Errorf("write the folder of keys: %w", err)
	}
	return nil
}

// lock keeps two publications out of one folder.
func (k *Keys) lock() (unlock func(), err error) {
	f, err := os.OpenFile(k.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMissing.WithCause(err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the folder of keys: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fault.New(fault.Conflict, "publisher_busy", "another publication uses these keys just now").
			WithHint("wait until it is done").WithCause(err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
