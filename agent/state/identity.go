package state

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/loopbackd/loopback/fault"
)

const identityFile = "identity"

// Identity is who this host is.
//
// It is first stored with a Key and no HostID, before the key is shown to anybody: an enrolment whose answer was lost is
// repeated with the same key and so gets the same answer. Next is stored before it is offered, for the same reason.
type Identity struct {
	HostID      string // "hst_…"; empty until the enrolment's answer arrived
	HostName    string // as the control plane registered it
	WorkspaceID string
	Channel     string
	EnrolledAt  time.Time
	Generation  int64 // of Key; 1 at enrolment, one more at each rotation
	Key         ed25519.PrivateKey
	KeySince    time.Time          // when Key came into use
	Next        ed25519.PrivateKey // of generation Generation+1; nil: no rotation is under way
	Earlier     []Succession       // how Key followed from the keys before it, oldest first
	Apart       ed25519.PrivateKey // of the host of its own that this machine was told to become; nil: it was not
}

// Succession is one key's word that another followed it; see package wire.
type Succession struct {
	Key        []byte `json:"key"`
	Next       []byte `json:"next"`
	Generation int64  `json:"generation"`
	Signature  []byte `json:"signature"`
}

// Enrolled tells whether the control plane knows this host.
func (i Identity) Enrolled() bool { return i.HostID != "" }

// Promoted is the identity once the control plane has taken Next.
func (i Identity) Promoted(generation int64, now time.Time) Identity {
	i.Key, i.Next, i.Generation, i.KeySince = i.Next, nil, generation, now
	return i
}

// Errors of reading the identity.
var (
	ErrNoIdentity = fault.New(fault.Precondition, "identity_missing", "this host is not enrolled").
			WithHint("enrol it with a token: loopback-agent install")
	ErrIdentityDamaged = fault.New(fault.Precondition, "identity_damaged", "the host's identity file is damaged; no new one is made in its place").
				WithHint("put the file back from a backup of this host; or run loopback-agent uninstall, remove the host in the control plane (loopback host remove) and install it again with a fresh token")
)

// identityJSON is the identity on disk. Keys are seeds of 32 bytes.
type identityJSON struct {
	HostID      string    `json:"hostId"`
	HostName    string    `json:"hostName"`
	WorkspaceID string    `json:"workspaceId"`
	Channel     string    `json:"channel"`
	EnrolledAt  time.Time `json:"enrolledAt"`
	Generation  int64     `json:"generation"`
	Key         []byte    `json:"key"`
	KeySince    time.Time `json:"keySince"`
	Next        []byte    `json:"next,omitempty"`
	Apart       []byte    `json:"apart,omitempty"`

	Earlier []Succession `json:"earlier,omitempty"`
}

// Identity reads the identity. ErrNoIdentity where there is none, ErrIdentityDamaged where it cannot be believed.
func (s *Store) Identity() (Identity, error) { return ReadIdentity(s.dir) }

// ReadIdentity reads the identity without opening the folder: for whoever only looks while an agent runs.
func ReadIdentity(dir string) (Identity, error) {
	body, err := read(dir, identityFile, "identity")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Identity{}, ErrNoIdentity
	case errors.Is(err, errDamaged):
		return Identity{}, ErrIdentityDamaged.WithCause(err)
	case err != nil:
		return Identity{}, err
	}
	var j identityJSON
	if err := json.Unmarshal(body, &j); err != nil {
		return Identity{}, ErrIdentityDamaged.WithCause(err)
	}
	if len(j.Key) != ed25519.SeedSize || j.Next != nil && len(j.Next) != ed25519.SeedSize ||
		j.Apart != nil && len(j.Apart) != ed25519.SeedSize || j.Generation < 1 {
		return Identity{}, ErrIdentityDamaged.WithCause(errors.New("it lacks a key"))
	}
	i := Identity{
		HostID: j.HostID, HostName: j.HostName, WorkspaceID: j.WorkspaceID, Channel: j.Channel, EnrolledAt: j.EnrolledAt,
		Generation: j.Generation, Key: ed25519.NewKeyFromSeed(j.Key), KeySince: j.KeySince, Earlier: j.Earlier,
	}
	if j.Next != nil {
		i.Next = ed25519.NewKeyFromSeed(j.Next)
	}
	if j.Apart != nil {
		i.Apart = ed25519.NewKeyFromSeed(j.Apart)
	}
	return i, nil
}

// PutIdentity stores the identity.
func (s *Store) PutIdentity(i Identity) error {
	if len(i.Key) != ed25519.PrivateKeySize || i.Generation < 1 {
		return fmt.Errorf("store the identity: it has a key of %d bytes and generation %d", len(i.Key), i.Generation)
	}
	j := identityJSON{
		HostID: i.HostID, HostName: i.HostName, WorkspaceID: i.WorkspaceID, Channel: i.Channel, EnrolledAt: i.EnrolledAt,
		Generation: i.Generation, Key: i.Key.Seed(), KeySince: i.KeySince, Earlier: i.Earlier,
	}
	if i.Next != nil {
		j.Next = i.Next.Seed()
	}
	if i.Apart != nil {
		j.Apart = i.Apart.Seed()
	}
	body, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	return s.replace(identityFile, seal("identity", append(body, '\n')))
}
