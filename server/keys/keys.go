// Package keys is what the control plane keeps in files and never in the database.
//
//	anchor.key      Ed25519, signs keysets; may be moved off the machine, only a new keyset needs it
//	link.key        X25519, answers agents' handshakes; one a replica
//	keyset.json     the signed list of link keys, versioned
//	pepper          keys the hashes of tokens and API keys
//	ca.key, ca.crt  the local CA, made unless a certificate is given
//	tls.key         of the certificate that the local CA issues; kept at renewal, since install commands pin it
//	release-*.key   Ed25519, sign the snapshot and timestamp of the release repository
//	replica.key     Ed25519, answers for this replica before the others; the keyset lists its public half
//	audit.key       Ed25519, signs the checkpoints of the audit log
//	audit.checkpoint  the last one that this machine signed
//	seal.key        AES-256, seals secrets of receivers in the database
//
// All are made at first start, each written whole before it has its name. A folder that is there but lost one of them
// is not repaired in silence where that would change whom hosts trust: the error names the file and what restores it.
//
// Several replicas share all of it but two: link.key and replica.key are each replica's own. Invite makes what a new one
// starts with and lists it in the next keyset, which only the anchor can sign; Adopt takes up a keyset that was signed
// elsewhere. A replica that the newest keyset does not list was evicted.
package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/trust"
)

// Keys are the secrets of one control plane.
type Keys struct {
	Dir    string
	Anchor ed25519.PublicKey
	Link   *ecdh.PrivateKey
	Peer   ed25519.PrivateKey
	Keyset trust.Keyset // as it was opened; Current is what counts by now
	Signed trust.Signed
	Pepper []byte
	Made   bool // this start made them

	mu sync.RWMutex // guards Keyset and Signed once the keys are in use
}

const pepperSize = 32

// Open reads the keys in a folder, or makes them where the folder has none.
func Open(dir string, now time.Time) (*Keys, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	k := &Keys{Dir: dir}
	_, err := os.Stat(k.path("keyset.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The keyset is written last: without it, an earlier first start was cut short and trusted by nobody yet.
		if err := k.make(now); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, unusable(dir, err)
	}
	if err := k.read(now); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Keys) path(name string) string { return filepath.Join(k.Dir, name) }

func (k *Keys) make(now time.Time) error {
	k.Made = true
	anchor, err := k.anchor()
	if errors.Is(err, fs.ErrNotExist) {
		_, anchor, err = ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		err = writePKCS8(k.path("anchor.key"), anchor)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(k.path("pepper")); errors.Is(err, fs.ErrNotExist) {
		pepper := make([]byte, pepperSize)
		rand.Read(pepper)
		if err := write(k.path("pepper"), pepper); err != nil {
			return err
		}
	}
	link, err := k.newLink()
	if err != nil {
		return err
	}
	return k.writeKeyset(anchor, trust.Keyset{
		Deployment: id.New("dep", now), Version: 1, IssuedAt: now.UTC(), LinkKeys: [][]byte{link.PublicKey().Bytes()},
	})
}

func (k *Keys) read(now time.Time) error {
	b, err := os.ReadFile(k.path("keyset.json"))
	if err != nil {
		return unusable(k.Dir, err)
	}
	if err := json.Unmarshal(b, &k.Signed); err != nil {
		return corrupt("keyset.json", err)
	}
	var set trust.Keyset
	if err := json.Unmarshal(k.Signed.Payload, &set); err != nil || len(set.Anchor) != ed25519.PublicKeySize {
		return corrupt("keyset.json", err)
	}
	if k.Keyset, err = k.Signed.Verify(trust.HashAnchor(set.Anchor), 0); err != nil {
		return corrupt("keyset.json", err)
	}
	k.Anchor = k.Keyset.Anchor
	if k.Pepper, err = os.ReadFile(k.path("pepper")); err != nil || len(k.Pepper) != pepperSize {
		return fault.New(fault.Precondition, "pepper_lost", "the file %s is missing or damaged; without it no token and no API key can be checked", k.path("pepper")).
			WithCause(err).WithHint("restore it from a backup: loopbackd restore")
	}
	if k.Peer, err = k.ed25519("replica.key"); err != nil {
		return err
	}
	k.Link, err = k.readLink()
	if err == nil && k.Keyset.Vouches(k.Link.PublicKey().Bytes()) {
		return nil
	}
	return k.Renew(now)
}

// Renew makes a new link key and a keyset that lists it instead of the one this replica had. It needs the anchor key.
// Links that are up stay; agents that connect next see the higher version.
func (k *Keys) Renew(now time.Time) error {
	anchor, err := k.anchor()
	if err != nil {
		return fault.New(fault.Precondition, "anchor_needed", "this replica's link key is not in the keyset, and signing a new keyset needs the anchor key").
			WithCause(err).WithHint("put anchor.key back into %s for this start, or restore link.key from a backup", k.Dir)
	}
	if !anchor.Public().(ed25519.PublicKey).Equal(k.Anchor) {
		return fault.New(fault.Precondition, "anchor_other", "%s is the anchor key of another deployment", k.path("anchor.key"))
	}
	link, err := k.newLink()
	if err != nil {
		return err
	}
	set := k.Keyset
	set.Version++
	set.IssuedAt = now.UTC()
	set.LinkKeys = [][]byte{link.PublicKey().Bytes()}
	if me, listed := set.Peer(k.Peer.Public().(ed25519.PublicKey)); listed {
		set = withReplica(set, trust.Replica{Name: me.Name, LinkKey: link.PublicKey().Bytes(), PeerKey: me.PeerKey})
	} else if len(set.Replicas) > 0 {
		return errEvicted
	}
	if err := k.writeKeyset(anchor, set); err != nil {
		return err
	}
	return k.read(now)
}

func (k *Keys) anchor() (ed25519.PrivateKey, error) {
	key, err := readPKCS8(k.path("anchor.key"))
	if err != nil {
		return nil, err
	}
	anchor, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, corrupt("anchor.key", errors.New("it is not an Ed25519 key"))
	}
	return anchor, nil
}

func (k *Keys) newLink() (*ecdh.PrivateKey, error) {
	link, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return link, writePKCS8(k.path("link.key"), link)
}

func (k *Keys) readLink() (*ecdh.PrivateKey, error) {
	key, err := readPKCS8(k.path("link.key"))
	if err != nil {
		return nil, err
	}
	link, ok := key.(*ecdh.PrivateKey)
	if !ok {
		return nil, corrupt("link.key", errors.New("it is not an X25519 key"))
	}
	return link, nil
}

func (k *Keys) writeKeyset(anchor ed25519.PrivateKey, set trust.Keyset) error {
	signed, err := set.Sign(anchor)
	if err != nil {
		return err
	}
	b, err := json.Marshal(signed)
	if err != nil {
		return err
	}
	return write(k.path("keyset.json"), b)
}

func writePKCS8(name string, key any) error {
	b, err := encodePKCS8(key)
	if err != nil {
		return err
	}
	return write(name, b)
}

func readPKCS8(name string) (any, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, corrupt(filepath.Base(name), errors.New("it is not PEM"))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, corrupt(filepath.Base(name), err)
	}
	return key, nil
}

// write puts a file in place whole, 0600, and on the disk before it has its name.
func write(name string, content []byte) error {
	if err := durable.WriteFile(name, content, 0o600); err != nil {
		return unusable(filepath.Dir(name), err)
	}
	return nil
}

func unusable(dir string, err error) error {
	return fault.New(fault.Unavailable, "data_folder_unusable", "the folder %s cannot be used", dir).WithCause(err).
		WithHint("check that it is writable by this user and that its disk is not full")
}

func corrupt(name string, err error) error {
	return fault.New(fault.Precondition, "key_corrupt", "the file %s is damaged", name).WithCause(err).
		WithHint("restore it from a backup: loopbackd restore")
}

// ReleaseKeys are the Ed25519 keys of the two TUF roles that the control plane signs itself: snapshot and timestamp.
// They are made where there are none; a publisher takes their public halves up in the next root.
func (k *Keys) ReleaseKeys() (snapshot, timestamp ed25519.PrivateKey, err error) {
	if snapshot, err = k.ed25519("release-snapshot.key"); err != nil {
		return nil, nil, err
	}
	timestamp, err = k.ed25519("release-timestamp.key")
	return snapshot, timestamp, err
}

func (k *Keys) ed25519(name string) (ed25519.PrivateKey, error) {
	key, err := readPKCS8(k.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		_, made, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return made, writePKCS8(k.path(name), made)
	}
	if err != nil {
		return nil, err
	}
	made, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, corrupt(name, errors.New("it is not an Ed25519 key"))
	}
	return made, nil
}
