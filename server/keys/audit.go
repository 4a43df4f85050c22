package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"

	"github.com/loopbackd/loopback/durable"
)

// AuditKey signs the checkpoints of the audit log. It is made where there is none. A deployment that lost it goes on with
// another, and whoever pinned the old one is told.
func (k *Keys) AuditKey() (ed25519.PrivateKey, error) { return k.ed25519("audit.key") }

// AuditRotation is the key that is to follow the log's: a file that StageAuditKey makes.
type AuditRotation struct{ keys *Keys }

// AuditRotation is that of this folder.
func (k *Keys) AuditRotation() AuditRotation { return AuditRotation{k} }

const nextAuditKey = "audit.next.key"

// Next is the key; nil where none lies ready.
func (r AuditRotation) Next() (ed25519.PrivateKey, error) {
	if _, err := os.Stat(r.keys.path(nextAuditKey)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r.keys.ed25519(nextAuditKey)
}

// Done makes it the log's key. The one before is gone.
func (r AuditRotation) Done() error {
	if err := os.Rename(r.keys.path(nextAuditKey), r.keys.path("audit.key")); err != nil {
		return err
	}
	return durable.SyncDir(r.keys.Dir)
}

// StageAuditKey lays a key ready that is to follow the log's: the one that lies there already, or a new one.
func (k *Keys) StageAuditKey() (ed25519.PrivateKey, error) { return k.ed25519(nextAuditKey) }

// AuditMemory remembers the last checkpoint of the audit log that this machine signed.
type AuditMemory struct{ path string }

// AuditMemory is that of this folder.
func (k *Keys) AuditMemory() AuditMemory { return AuditMemory{k.path("audit.checkpoint")} }

// Load is the checkpoint; empty where none was signed.
func (m AuditMemory) Load() (string, error) {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// Store replaces it.
func (m AuditMemory) Store(note string) error { return write(m.path, []byte(note)) }

// Seal is what secrets that must come out again are sealed with before they are stored: 32 bytes, made where there are
// none. Without it they are lost, and nothing else.
func (k *Keys) Seal() ([]byte, error) {
	b, err := os.ReadFile(k.path("seal.key"))
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, sealSize)
		rand.Read(b)
		return b, write(k.path("seal.key"), b)
	}
	if err == nil && len(b) != sealSize {
		err = corrupt("seal.key", errors.New("it is not 32 bytes long"))
	}
	return b, err
}

const sealSize = 32
