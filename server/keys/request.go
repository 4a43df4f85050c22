package keys

import (
	"crypto/ed25519"
	"encoding/json"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// Request is a keyset that waits for the anchor's signature, where the anchor key is kept away from the machine. It holds
// public keys only, and says what it follows, so that whoever signs sees what changes.
type Request struct {
	Format  int          `json:"format"`
	Act     string       `json:"act"` // invite or evict
	Replica string       `json:"replica"`
	Current trust.Signed `json:"current"`
	Next    trust.Keyset `json:"next"`
}

// The acts.
const (
	ActInvite = "invite"
	ActEvict  = "evict"
)

const requestFormat = 1

// RequestInvite is Invite without the anchor key: the invitation lacks its keyset, which is to be signed elsewhere.
func (k *Keys) RequestInvite(name string, now time.Time) (Invitation, Request, error) {
	i, set, err := k.invited(name, now)
	return i, k.request(ActInvite, i.Name, set), err
}

// RequestEvict is Evict without the anchor key.
func (k *Keys) RequestEvict(name string) (Request, error) {
	set, err := k.without(name)
	return k.request(ActEvict, name, set), err
}

func (k *Keys) request(act, replica string, next trust.Keyset) Request {
	_, signed := k.Current()
	next.Version++
	return Request{Format: requestFormat, Act: act, Replica: replica, Current: signed, Next: next}
}

// ReadRequest reads what Marshal wrote.
func ReadRequest(b []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(b, &r); err != nil || r.Next.Deployment == "" {
		return r, fault.New(fault.Invalid, "request_invalid", "the file is no request for a keyset").WithCause(err).
			WithHint("take what loopbackd invite --request or evict --request wrote")
	}
	if r.Format != requestFormat {
		return r, fault.New(fault.Precondition, "request_newer", "the request has format %d; this program knows %d", r.Format, requestFormat)
	}
	return r, nil
}

// Difference is what a request changes, by the names of replicas. Renewed are those whose keys would become others.
type Difference struct {
	Deployment              string
	From, To                uint64
	Added, Removed, Renewed []string
}

// Check verifies that a request follows a keyset that this anchor signed, and says what it changes. It must do what it
// says, to one replica, and nothing else.
func (r Request) Check(anchor ed25519.PublicKey) (d Difference, err error) {
	refuse := func(why string) (Difference, error) {
		return d, fault.New(fault.Precondition, "request_refused", "%s; nothing was signed", why).WithHint("somebody altered the request, or it is of another deployment: make a new one")
	}
	now, err := r.Current.Verify(trust.HashAnchor(anchor), 0)
	if err != nil {
		return refuse("the request does not follow a keyset of this anchor key")
	}
	next := r.Next
	d = Difference{Deployment: now.Deployment, From: now.Version, To: next.Version}
	if next.Deployment != now.Deployment || string(next.Anchor) != string(now.Anchor) || string(next.NextAnchor) != string(now.NextAnchor) || next.Version != now.Version+1 {
		return refuse("the request changes the deployment, its anchor, or skips a version")
	}
	had := map[string]trust.Replica{}
	for _, one := range now.Replicas {
		had[one.Name] = one
	}
	links := 0
	for _, one := range next.Replicas {
		old, known := had[one.Name]
		delete(had, one.Name)
		switch {
		case !known:
			d.Added = append(d.Added, one.Name)
		case string(old.LinkKey) != string(one.LinkKey) || string(old.PeerKey) != string(one.PeerKey):
			d.Renewed = append(d.Renewed, one.Name)
		}
		for _, l := range next.LinkKeys {
			if string(l) == string(one.LinkKey) {
				links++
			}
		}
	}
	for name := range had {
		d.Removed = append(d.Removed, name)
	}
	// The first replica lists itself beside the one that it invites: by the link key that it had all along.
	self, _ := next.Replica(FirstReplica)
	first := len(now.Replicas) == 0 && len(now.LinkKeys) == 1 && string(self.LinkKey) == string(now.LinkKeys[0]) &&
		len(d.Added) == 2 && d.Added[1] == r.Replica
	switch {
	case len(next.LinkKeys) != len(next.Replicas) || links != len(next.Replicas):
		return refuse("the request lists link keys that are no replica's")
	case len(d.Renewed) > 0:
		return refuse("the request changes keys of " + d.Renewed[0])
	case r.Act == ActInvite && len(d.Removed) == 0 && (first || len(d.Added) == 1 && d.Added[0] == r.Replica):
	case r.Act == ActEvict && len(d.Added) == 0 && len(d.Removed) == 1 && d.Removed[0] == r.Replica:
	default:
		return refuse("the request does not do what it says")
	}
	return d, nil
}

// Sign signs what Check finds in order.
func (r Request) Sign(anchorFile string, now time.Time) (trust.Signed, Difference, error) {
	key, err := readPKCS8(anchorFile)
	anchor, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return trust.Signed{}, Difference{}, fault.New(fault.Precondition, "anchor_needed", "%s holds no anchor key", anchorFile).WithCause(err)
	}
	d, err := r.Check(anchor.Public().(ed25519.PublicKey))
	if err != nil {
		return trust.Signed{}, d, err
	}
	next := r.Next
	next.IssuedAt = now.UTC()
	signed, err := next.Sign(anchor)
	return signed, d, err
}
