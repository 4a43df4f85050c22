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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// FirstReplica is what the replica is called that made the deployment.
const FirstReplica = "replica-1"

var errEvicted = fault.New(fault.Precondition, "replica_evicted", "the deployment's keyset does not list this replica: it was evicted").
	WithHint("invite it again as a new one: loopbackd invite, on the machine that has the anchor key")

// Current is the keyset that this replica shows to agents, and the same as it was signed.
func (k *Keys) Current() (trust.Keyset, trust.Signed) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.Keyset, k.Signed
}

// Look reads what speaks for a replica before others, and changes nothing, for whoever only asks. Keys that it lacks are
// an error.
func Look(dir string) (*Keys, error) {
	k := &Keys{Dir: dir}
	b, err := os.ReadFile(k.path("keyset.json"))
	if err != nil {
		return nil, unusable(dir, err)
	}
	var set trust.Keyset
	if err := json.Unmarshal(b, &k.Signed); err != nil {
		return nil, corrupt("keyset.json", err)
	}
	if err := json.Unmarshal(k.Signed.Payload, &set); err != nil {
		return nil, corrupt("keyset.json", err)
	}
	if k.Keyset, err = k.Signed.Verify(trust.HashAnchor(set.Anchor), 0); err != nil {
		return nil, corrupt("keyset.json", err)
	}
	k.Anchor = k.Keyset.Anchor
	key, err := readPKCS8(k.path("replica.key"))
	peer, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, corrupt("replica.key", err)
	}
	k.Peer = peer
	return k, nil
}

// Name of this replica.
func (k *Keys) Name() string {
	set, _ := k.Current()
	if r, ok := set.Peer(k.Peer.Public().(ed25519.PublicKey)); ok {
		return r.Name
	}
	return FirstReplica
}

// Adopt takes a keyset up that the anchor signed elsewhere, and keeps it. One that is no newer changes nothing. It fails
// where the keyset does not list this replica.
func (k *Keys) Adopt(signed trust.Signed) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	set, err := signed.Verify(trust.HashAnchor(k.Anchor), 0)
	switch {
	case err != nil:
		return false, err
	case set.Deployment != k.Keyset.Deployment:
		return false, fault.New(fault.Precondition, "deployment_other", "the keyset is of deployment %s, not of %s", set.Deployment, k.Keyset.Deployment)
	case set.Version <= k.Keyset.Version:
		return false, nil
	case !set.Vouches(k.Link.PublicKey().Bytes()):
		return false, errEvicted
	}
	b, err := json.Marshal(signed)
	if err != nil {
		return false, err
	}
	if err := write(k.path("keyset.json"), b); err != nil {
		return false, err
	}
	k.Keyset, k.Signed = set, signed
	return true, nil
}

// Invitation is all that a new replica starts with. It holds every secret that replicas share.
type Invitation struct {
	Name    string            `json:"name"`
	Expires time.Time         `json:"expires"`
	Anchor  []byte            `json:"anchor,omitempty"` // public; that a keyset which comes apart is signed by
	Files   map[string][]byte `json:"files"`            // of the keys' folder; without keyset.json where that comes apart
}

// invitationLife is for how long an invitation can be taken up: it is a key to everything that lies about.
const invitationLife = 24 * time.Hour

var replicaName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)

// alike tells whether two names are the same in the ids of poll sessions, which have no dashes.
func alike(a, b string) bool { return strings.ReplaceAll(a, "-", "") == strings.ReplaceAll(b, "-", "") }

// Invite makes the keys of a new replica and the keyset that lists it beside the others, which is to be published before
// the new one starts. An empty name becomes the next of replica-2, replica-3…; anchorFile is where the anchor key lies,
// empty: in the folder. Nothing is kept here.
func (k *Keys) Invite(name, anchorFile string, now time.Time) (Invitation, trust.Signed, error) {
	anchor, err := k.anchorAt(anchorFile)
	if err != nil {
		return Invitation{}, trust.Signed{}, err
	}
	i, set, err := k.invited(name, now)
	if err != nil {
		return Invitation{}, trust.Signed{}, err
	}
	signed, err := sign(set, anchor, now)
	if err != nil {
		return Invitation{}, trust.Signed{}, err
	}
	i.Files["keyset.json"], err = json.Marshal(signed)
	return i, signed, err
}

// invited is an invitation without its keyset, and that keyset as it is to be signed.
func (k *Keys) invited(name string, now time.Time) (Invitation, trust.Keyset, error) {
	fail := func(err error) (Invitation, trust.Keyset, error) { return Invitation{}, trust.Keyset{}, err }
	set, _ := k.Current()
	set = k.listed(set)
	if name == "" {
		name = freeName(set)
	}
	if !replicaName.MatchString(name) {
		return fail(fault.New(fault.Invalid, "replica_name_invalid", "%q is not a replica's name: small letters, digits and dashes, a letter first, 32 at most", name))
	}
	for _, r := range set.Replicas {
		if alike(r.Name, name) {
			return fail(fault.New(fault.Exists, "replica_exists", "there is a replica %s already", r.Name).
				WithHint("choose another --name, or evict it first: loopbackd evict %s", r.Name))
		}
	}
	link, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	public, peer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	files, err := k.shared()
	if err != nil {
		return fail(err)
	}
	for file, key := range map[string]any{"link.key": link, "replica.key": peer} {
		if files[file], err = encodePKCS8(key); err != nil {
			return fail(err)
		}
	}
	set = withReplica(set, trust.Replica{Name: name, LinkKey: link.PublicKey().Bytes(), PeerKey: public})
	return Invitation{Name: name, Expires: now.Add(invitationLife).UTC(), Anchor: k.Anchor, Files: files}, set, nil
}

// Evict makes the keyset without a replica. Its link key proves nothing to agents from then on, and its other key opens
// nothing of the other replicas'.
func (k *Keys) Evict(name, anchorFile string, now time.Time) (trust.Signed, error) {
	anchor, err := k.anchorAt(anchorFile)
	if err != nil {
		return trust.Signed{}, err
	}
	set, err := k.without(name)
	if err != nil {
		return trust.Signed{}, err
	}
	return sign(set, anchor, now)
}

// without is the keyset without a replica, as it is to be signed.
func (k *Keys) without(name string) (trust.Keyset, error) {
	set, _ := k.Current()
	set = k.listed(set)
	gone, ok := set.Replica(name)
	if !ok {
		var names []string
		for _, r := range set.Replicas {
			names = append(names, r.Name)
		}
		return set, fault.New(fault.NotFound, "replica_not_found", "there is no replica %s", name).
			WithHint("the keyset lists %s; which of them runs where: loopback replica list", strings.Join(names, ", "))
	}
	if len(set.Replicas) == 1 {
		return set, fault.New(fault.Precondition, "replica_last", "%s is the only replica: nobody would answer agents", name)
	}
	set.Replicas = slices.DeleteFunc(slices.Clone(set.Replicas), func(r trust.Replica) bool { return r.Name == name })
	set.LinkKeys = slices.DeleteFunc(slices.Clone(set.LinkKeys), func(l []byte) bool { return string(l) == string(gone.LinkKey) })
	return set, nil
}

// Complete puts a keyset into an invitation that was made without one. It must list the invited replica.
func (i Invitation) Complete(signed trust.Signed) error {
	if i.Files["keyset.json"] != nil {
		return fault.New(fault.Precondition, "invitation_complete", "the invitation has its keyset").WithHint("run this without --keyset")
	}
	set, err := signed.Verify(trust.HashAnchor(i.Anchor), 0)
	if err != nil {
		return fault.New(fault.Unauthenticated, "keyset_invalid", "the keyset is not signed by the anchor key of the deployment that invited").WithCause(err)
	}
	if _, ok := set.Replica(i.Name); !ok {
		return fault.New(fault.Precondition, "keyset_other", "keyset %d does not list %s", set.Version, i.Name).
			WithHint("take the one that was signed for this invitation")
	}
	i.Files["keyset.json"], err = json.Marshal(signed)
	return err
}

// Join makes a folder of keys from an invitation. The folder must have none.
func Join(dir string, i Invitation, now time.Time) error {
	if now.After(i.Expires) {
		return fault.New(fault.Precondition, "invitation_expired", "the invitation ended at %s", i.Expires.Format(time.RFC3339)).
			WithHint("make another: loopbackd invite")
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	held, err := os.ReadDir(dir)
	if err != nil {
		return unusable(dir, err)
	}
	if len(held) > 0 {
		return fault.New(fault.Precondition, "data_folder_in_use", "%s holds keys already", dir).
			WithHint("choose another --data-dir: this machine is, or was, a control plane of its own")
	}
	last, ok := i.Files["keyset.json"]
	if !ok {
		return fault.New(fault.Precondition, "keyset_missing", "the invitation came without its keyset").
			WithHint("name what loopbackd keyset sign wrote: --keyset FILE")
	}
	for name, content := range i.Files {
		if name == "keyset.json" {
			continue
		}
		if filepath.Base(name) != name || strings.HasPrefix(name, ".") {
			return fault.New(fault.Invalid, "invitation_invalid", "the invitation has a file %q", name)
		}
		if err := write(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "keyset.json"), last) // without it the folder counts for nothing
}

// own are the files that no other replica gets.
var own = []string{"anchor.key", "link.key", "replica.key", "keyset.json"}

// shared are the files that every replica has.
func (k *Keys) shared() (map[string][]byte, error) {
	for _, needed := range []string{"pepper", "audit.key", "seal.key", "release-snapshot.key", "release-timestamp.key"} {
		if _, err := os.Stat(k.path(needed)); errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.Precondition, "not_started", "%s is not made yet", k.path(needed)).
				WithHint("start this control plane once before it invites others")
		}
	}
	entries, err := os.ReadDir(k.Dir)
	if err != nil {
		return nil, unusable(k.Dir, err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || slices.Contains(own, e.Name()) {
			continue
		}
		if out[e.Name()], err = os.ReadFile(k.path(e.Name())); err != nil {
			return nil, unusable(k.Dir, err)
		}
	}
	return out, nil
}

// listed is the keyset with this replica in its list, where it was alone so far.
func (k *Keys) listed(set trust.Keyset) trust.Keyset {
	if len(set.Replicas) > 0 {
		return set
	}
	return withReplica(set, trust.Replica{Name: FirstReplica, LinkKey: k.Link.PublicKey().Bytes(), PeerKey: k.Peer.Public().(ed25519.PublicKey)})
}

// withReplica is the keyset with an entry added, or put in the place of the one of that name.
func withReplica(set trust.Keyset, r trust.Replica) trust.Keyset {
	set.Replicas = append(slices.DeleteFunc(slices.Clone(set.Replicas), func(o trust.Replica) bool { return o.Name == r.Name }), r)
	set.LinkKeys = nil
	for _, r := range set.Replicas {
		set.LinkKeys = append(set.LinkKeys, r.LinkKey)
	}
	return set
}

func freeName(set trust.Keyset) string {
	for n := 2; ; n++ {
		name := "replica-" + strconv.Itoa(n)
		if !slices.ContainsFunc(set.Replicas, func(r trust.Replica) bool { return alike(r.Name, name) }) {
			return name
		}
	}
}

func (k *Keys) anchorAt(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		file = k.path("anchor.key")
	}
	key, err := readPKCS8(file)
	anchor, ok := key.(ed25519.PrivateKey)
	switch {
	case err != nil:
		return nil, fault.New(fault.Precondition, "anchor_needed", "a new keyset is signed by the anchor key, which %s does not hold", file).
			WithCause(err).WithHint("run this on the machine that has it, or name the file with --anchor")
	case !ok || !anchor.Public().(ed25519.PublicKey).Equal(k.Anchor):
		return nil, fault.New(fault.Precondition, "anchor_other", "%s is not the anchor key of this deployment", file)
	}
	return anchor, nil
}

func sign(set trust.Keyset, anchor ed25519.PrivateKey, now time.Time) (trust.Signed, error) {
	set.Version++
	set.IssuedAt = now.UTC()
	return set.Sign(anchor)
}

func encodePKCS8(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
