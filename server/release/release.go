// Package release is the repository of programs that hosts may run: it stores what publishers sign and tells hosts what
// is current, without being able to vouch for a program itself.
//
// The repository follows The Update Framework (TUF). Four roles sign:
//
//	root       who may sign what          publisher's keys, never here
//	targets    which programs there are   publisher's key, never here
//	snapshot   which targets file         this control plane's key
//	timestamp  which snapshot is current  this control plane's key, signed again long before it expires
//
// A publisher uploads artefacts in parts (what is there stays there, so that an interrupted upload goes on) and then
// hands over new root and targets metadata. Publishing verifies the chain of roots, the signatures and that every
// artefact is present with the hash that was signed; only then are snapshot and timestamp written, timestamp last: it is
// the switch. A crash before it leaves files that nobody refers to and that the next publication overwrites; a crash
// after it is healed by publishing again, or by Run, which enters in the catalogue what is signed.
//
// What was published stays: a later targets file that lacks it, or gives the same path other bytes, is refused.
//
// Versions of snapshot and timestamp are taken from the clock where that is ahead, so that they still rise after a
// restored backup; hosts would refuse them otherwise.
package release

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/tenant"
)

// Lifetimes of what the control plane signs. Each is signed again at half of it.
const (
	SnapshotLifetime  = 30 * 24 * time.Hour
	TimestampLifetime = 7 * 24 * time.Hour
)

// Reader reads the catalogue.
type Reader interface {
	Release(ctx context.Context, id string) (release.Release, error)
	Releases(ctx context.Context, program, channel string, page tenant.Page) ([]release.Release, string, error)
}

// Tx changes the catalogue.
type Tx interface {
	Reader
	PutRelease(ctx context.Context, r release.Release) (release.Release, error)
	TakeLease(ctx context.Context, name, owner string, until time.Time) (held bool, err error)
	DropLease(ctx context.Context, name, owner string) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where the catalogue lies.
type Store interface {
	View() Reader
	Write(ctx context.Context, do func(Tx) error) error
	Observe(ctx context.Context, do func(Tx) error) error
}

// Options of a Service. All but Logger and Clock are required.
type Options struct {
	Blobs        Blobs
	Store        Store
	SnapshotKey  ed25519.PrivateKey
	TimestampKey ed25519.PrivateKey
	Owner        string                      // the replica's name, for its lease; empty: nobody else has these blobs
	Sweep        func(context.Context) error // clears what nobody refers to from the blobs; nil: nothing is left there
	Clock        func() time.Time            // nil: time.Now
	Logger       *slog.Logger                // nil: slog.Default()
}

// Service is the repository. Its methods may be called from any goroutine.
type Service struct {
	blobs        Blobs
	store        Store
	snapshotKey  ed25519.PrivateKey
	timestampKey ed25519.PrivateKey
	owner        string
	sweep        func(context.Context) error
	clock        func() time.Time
	log          *slog.Logger

	writing sync.Mutex // with the lease, serialises uploads' ends, publications and re-signing
	current atomic.Pointer[repository]
}

// New loads what is stored. It fails where stored metadata does not verify: somebody altered it, or the keys of snapshot
// and timestamp are not those that it was signed with.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{
		blobs: o.Blobs, store: o.Store, snapshotKey: o.SnapshotKey, timestampKey: o.TimestampKey,
		owner: o.Owner, sweep: o.Sweep, clock: o.Clock, log: o.Logger,
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s, s.Reload(ctx)
}

// Reload reads the stored metadata again: after another replica published, or files were restored.
func (s *Service) Reload(ctx context.Context) error {
	for {
		was := s.current.Load()
		r, err := load(ctx, s.blobs)
		if err != nil {
			return err
		}
		if s.current.CompareAndSwap(was, r) { // else somebody published here meanwhile
			return nil
		}
	}
}

// Run enters what is signed in the catalogue, where a publication was cut off before that, and from then on signs
// timestamp and snapshot again long before they expire, and removes uploads that nobody finished. It returns when ctx
// ends, with nil. A failure is logged and tried again a minute later: hosts keep running on what they have.
func (s *Service) Run(ctx context.Context) error {
	for {
		wait := time.Hour // a machine that slept must not rely on one long timer
		if err := s.freshen(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot keep the release metadata fresh", "error", err)
			wait = time.Minute
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (s *Service) freshen(ctx context.Context) error {
	err := errors.Join(s.renew(ctx), s.reconcile(ctx), s.sweepUploads(ctx))
	if s.sweep != nil {
		err = errors.Join(err, s.sweep(ctx))
	}
	return err
}

// reconcile brings the catalogue up to what is signed. It reads first: as a rule there is nothing to write.
func (s *Service) reconcile(ctx context.Context) error {
	if behind, err := s.behind(ctx); err != nil || !behind {
		return err
	}
	ctx, done, err := s.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	behind, err := s.behind(ctx) // still: somebody may have been about to enter it
	if err != nil || !behind {
		return err
	}
	ctx = access.WithActor(ctx, access.Actor{Kind: access.System, ID: "release", Name: "release"})
	_, err = s.enter(ctx, s.current.Load().targets)
	return err
}

// behind tells whether the catalogue lacks something that is signed.
func (s *Service) behind(ctx context.Context) (bool, error) {
	r := s.current.Load()
	if r.root == nil {
		return false, nil
	}
	known, err := s.all(ctx, s.store.View())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(group(r.targets, s.clock()), func(r release.Release) bool {
		return !slices.ContainsFunc(known, func(k release.Release) bool { return k.Name == r.Name && same(k, r) })
	}), nil
}

func (s *Service) renew(ctx context.Context) error {
	if err := s.refresh(ctx); err != nil {
		return err
	}
	due := func(expires time.Time, lifetime time.Duration) bool { return expires.Sub(s.clock()) < lifetime/2 }
	nothing := func(r *repository) bool {
		return r.root == nil || !due(r.timestampExpires, TimestampLifetime) && !due(r.snapshotExpires, SnapshotLifetime)
	}
	if nothing(s.current.Load()) {
		return nil
	}
	ctx, done, err := s.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.refresh(ctx); err != nil { // another replica may have signed
		return err
	}
	r := s.current.Load()
	if nothing(r) {
		return nil
	}
	next, err := s.seal(ctx, *r, nil, due(r.snapshotExpires, SnapshotLifetime))
	if err != nil {
		return err
	}
	s.current.Store(next)
	s.log.Info("signed the release metadata again", "expires", next.timestampExpires)
	return nil
}

// Expiry is when the metadata of each role expires, by the role's name. It is empty before the first publication.
func (s *Service) Expiry() map[string]time.Time {
	r := s.current.Load()
	if r.root == nil {
		return nil
	}
	out := map[string]time.Time{"timestamp": r.timestampExpires, "snapshot": r.snapshotExpires, "targets": r.targetsExpires}
	if len(r.roots) > 0 {
		out["root"] = r.roots[len(r.roots)-1].Signed.Expires
	}
	return out
}

// List returns a page of the catalogue, newest first. Releases belong to the whole deployment: whoever may read them
// anywhere sees them all.
func (s *Service) List(ctx context.Context, program, channel string, page tenant.Page) ([]release.Release, string, error) {
	if err := mayRead(ctx); err != nil {
		return nil, "", err
	}
	return s.store.View().Releases(ctx, program, channel, page)
}

// Get returns a release by its id or its name ("loopback-agent 1.2.3").
func (s *Service) Get(ctx context.Context, ref string) (release.Release, error) {
	if err := mayRead(ctx); err != nil {
		return release.Release{}, err
	}
	r, err := s.store.View().Release(ctx, ref)
	if fault.KindOf(err) != fault.NotFound {
		return r, err
	}
	all, err := s.all(ctx, s.store.View())
	if err != nil {
		return release.Release{}, err
	}
	for _, r := range all {
		if r.Name == ref {
			return r, nil
		}
	}
	return release.Release{}, access.NotFound("release " + ref)
}

// Resolve finds what a host that follows the channel should install: the version, or the newest where that is empty. A
// version that is asked for by name may be on any channel unless a channel is named too. The targets are the programs of
// that version, one a platform.
func (s *Service) Resolve(program, channel, version string) ([]release.Target, error) {
	r := s.current.Load()
	if channel != "" && channel != release.Stable && channel != release.Preview {
		return nil, fault.New(fault.Invalid, "channel_unknown", "there is no such release channel").
			WithHint("the channels are stable and preview")
	}
	if version != "" && !release.ValidVersion(version) {
		return nil, fault.New(fault.Invalid, "version_invalid", "that is not a version").
			WithHint("a version looks like 1.2.3 or 1.2.3-rc.1, without a leading v")
	}
	follows := channel
	if follows == "" {
		follows = release.Stable
	}
	found := release.Resolve(r.targets, program, channel, version)
	switch {
	case len(found) > 0:
		return found, nil
	case version != "":
		return nil, fault.New(fault.NotFound, "release_not_found", "%s %s is not published here", program, version).
			WithHint("see what is: loopback release list")
	default:
		return nil, fault.New(fault.NotFound, "release_not_found", "no %s is published on the channel %s", program, follows).
			WithHint("publish one: loopback release publish")
	}
}

// Root is the newest root metadata, what an installer pins; nil before the first publication.
func (s *Service) Root() []byte { return s.current.Load().root }

func mayRead(ctx context.Context) error {
	actor := access.ActorFrom(ctx)
	if len(actor.Readable(release.Read)) > 0 {
		return nil
	}
	return actor.Require(release.Read, access.Scope{}, release.Read, "the release catalogue")
}

func mayPublish(ctx context.Context) error {
	return access.ActorFrom(ctx).Require(release.Publish, access.Scope{}, release.Read, "the release catalogue")
}

// Metadata is what a publisher builds upon: the newest files by name, and the public keys of snapshot and timestamp that
// its root must name.
func (s *Service) Metadata(ctx context.Context) (files map[string][]byte, snapshot, timestamp ed25519.PublicKey, err error) {
	if err := mayRead(ctx); err != nil {
		return nil, nil, nil, err
	}
	if err := s.refresh(ctx); err != nil { // what is signed upon it must be the newest, whoever published that
		return nil, nil, nil, err
	}
	r := s.current.Load()
	files = map[string][]byte{}
	for version := int64(1); version <= r.rootVersion; version++ {
		b, err := readMetadata(ctx, s.blobs, rootKey(version))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a repository may begin with a later root
		}
		if err != nil {
			return nil, nil, nil, err
		}
		files[rootName(version)] = b
	}
	if r.root != nil {
		files["targets.json"] = r.targetsFile
	}
	return files, public(s.snapshotKey), public(s.timestampKey), nil
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
