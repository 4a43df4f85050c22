// Package server is the control plane, assembled.
//
// New opens what has to be there (keys, database, releases), loads the fleet into memory and wires the slices to each
// other; all wiring is in this package, written out. Run serves until its context ends and then stops in order: it says
// that it is not ready, tells every agent when to come back, lets calls that are under way end, stops the workers, and
// closes the database last. A control plane that is killed instead loses nothing that it acknowledged.
package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	ids "github.com/loopbackd/loopback/id"
	passkeys "github.com/loopbackd/loopback/passkey"
	rules "github.com/loopbackd/loopback/server/access"
	"github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/bus"
	"github.com/loopbackd/loopback/server/change"
	"github.com/loopbackd/loopback/server/command"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/console"
	"github.com/loopbackd/loopback/server/enrol"
	"github.com/loopbackd/loopback/server/exec"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/file"
	"github.com/loopbackd/loopback/server/fleet"
	"github.com/loopbackd/loopback/server/grant"
	"github.com/loopbackd/loopback/server/guest"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/install"
	"github.com/loopbackd/loopback/server/invitation"
	"github.com/loopbackd/loopback/server/keys"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/limit"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/lock"
	"github.com/loopbackd/loopback/server/operation"
	"github.com/loopbackd/loopback/server/passkey"
	"github.com/loopbackd/loopback/server/policy"
	"github.com/loopbackd/loopback/server/principal"
	providers "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/replica"
	"github.com/loopbackd/loopback/server/review"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/sessionreview"
	"github.com/loopbackd/loopback/server/settings"
	"github.com/loopbackd/loopback/server/shell"
	signins "github.com/loopbackd/loopback/server/signin"
	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/stream"
	"github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/server/tracing"
	"github.com/loopbackd/loopback/server/witness"
	nouns "github.com/loopbackd/loopback/tenant"
	tokens "github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// Options of a control plane.
type Options struct {
	Settings config.Settings
	Version  string
	Logger   *slog.Logger         // nil: slog.Default
	Clock    func() time.Time     // nil: time.Now
	Registry *prometheus.Registry // nil: one of its own
}

// Server is one replica of the control plane.
type Server struct {
	options Options
	log     *slog.Logger
	replica string
	meters  *meters
	limits  *limit.Limiter

	tracers      trace.TracerProvider
	closeTracers func(context.Context) error // sends what waits

	keys  *keys.Keys
	certs *keys.Certificates
	db    *storage.DB

	replicas  *replica.Service
	peers     *peers // nil: this replica is alone
	bus       *bus.Bus
	follower  *feed.Follower
	directory *fleet.Directory
	hub       *link.Hub
	wire      *wire.Server
	streams   *stream.Service
	shells    *shell.Service
	policy    *access.Policy
	engine    *rules.Engine
	questions *rules.Service
	people    *principal.Service
	policies  *policy.Service
	changes   *change.Service
	grants    *grant.Service
	reviews   *review.Service
	locks     *lock.Service

	sessionReviews *sessionreview.Service
	guests         *guest.Service

	witnesses *witness.Service
	tenants   *tenant.Service
	tokens    *token.Service
	apikeys   *apikey.Service
	signIns   *signins.Service
	providers *providers.Service
	passkeys  *passkey.Service

	invitations *invitation.Service
	audit       *audit.Service
	reads       *audit.Reads
	retention   *audit.Retention
	ledger      *ledger.Service
	sinks       *sink.Service
	shipper     *sink.Shipper
	hosts       *host.Service
	restarts    *host.Restarts
	expiry      *host.Expiry
	execs       *exec.Service
	files       *file.Service
	commands    *command.Service
	settings    *settings.Service
	jobs        *operation.Service
	worker      *operation.Worker
	releases    *release.Service
	install     *install.Service
	sessions    *console.Sessions

	credentials credentials

	deployment nouns.Deployment
	listener   net.Listener    // set by Listen
	stopping   context.Context // ended once the server is about to stop
	stop       context.CancelFunc
}

// expiryGrace is for how many reconnect windows after our start no ephemeral host is removed: its absence may be ours.
const expiryGrace = 3

// New opens and wires a control plane. It changes nothing outside its data folder and database.
func New(ctx context.Context, o Options) (_ *Server, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	s := &Server{options: o, log: o.Logger}
	s.stopping, s.stop = context.WithCancel(context.Background())
	set := o.Settings
	if s.keys, err = keys.Open(filepath.Join(set.DataDir, "keys"), o.Clock()); err != nil {
		return nil, err
	}
	s.replica = s.keys.Name()
	if s.tracers, s.closeTracers, err = tracing.Open(ctx, tracing.Options{
		Endpoint: set.TraceEndpoint, Share: set.TraceShare, Version: o.Version, Replica: s.replica, Logger: o.Logger,
	}); err != nil {
		return nil, err
	}
	s.meters = newMeters(o.Registry)
	s.limits = limit.New(limit.Options{
		SourceRate: set.Limits.SourceRate, HandshakeRate: set.Limits.SourceHandshakes, CallerRate: set.Limits.CallerRate, Calls: set.Limits.Calls, CallerCalls: set.Limits.CallerCalls,
		Streams: set.Limits.Streams, CallerStreams: set.Limits.CallerStreams, Refused: s.meters.refuse,
	})
	if set.TLSCertificate != "" {
		s.certs, err = keys.FromFiles(set.TLSCertificate, set.TLSKey, o.Clock)
	} else {
		s.certs, err = s.keys.LocalCA(certificateNames(set), o.Clock)
	}
	if err != nil {
		return nil, err
	}
	if s.db, err = storage.Open(ctx, storage.Options{URL: set.Database, Clock: o.Clock, Logger: o.Logger, Watch: s.meters.storage()}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.adopt(ctx); err != nil {
		return nil, err
	}
	if err := s.joinReplicas(ctx); err != nil {
		return nil, err
	}
	if err := s.openBus(); err != nil {
		return nil, err
	}
	if err := s.wireSlices(ctx); err != nil {
		return nil, err
	}
	s.follower = feed.NewFollower(feed.Options{Source: changes{s.db, s.bus, o.Logger}, Logger: o.Logger})
	s.meters.watch(s)
	return s, s.tenants.EnsureDefault(access.WithActor(ctx, access.Actor{Kind: access.System, ID: "system", Name: "first start"}))
}

// adopt makes the database this deployment's, or finds that it is another's.
func (s *Server) adopt(ctx context.Context) error {
	d, err := s.db.View().Deployment(ctx)
	if fault.KindOf(err) == fault.NotFound {
		d = nouns.Deployment{ID: s.keys.Keyset.Deployment, Epoch: 1, CreatedAt: s.options.Clock()}
		err = s.db.Observe(ctx, func(tx *storage.Tx) error { return tx.PutDeployment(ctx, d) })
	}
	if err != nil {
		return err
	}
	if d.ID != s.keys.Keyset.Deployment {
		return fault.New(fault.Precondition, "deployment_other", "the database belongs to deployment %s, the keys in %s to %s", d.ID, s.keys.Dir, s.keys.Keyset.Deployment).
			WithHint("use the data folder and the database that belong together, or restore both from one backup")
	}
	s.deployment = d
	return nil
}

// wireSlices makes every slice and gives each what it needs of the others.
func (s *Server) wireSlices(ctx context.Context) error {
	o, set, now := s.options, s.options.Settings, s.options.Clock
	limits := tokens.Limits{
		DefaultTTL: set.TokenDefaultTTL, LongTTL: set.TokenLongTTL, MaxTTL: set.TokenMaxTTL,
		DefaultMaxUses: int32(set.TokenDefaultMaxUses), MaxUses: int32(set.TokenMaxUses),
	}
	anchor := func() trust.AnchorHash { return trust.HashAnchor(s.keys.Anchor) }

	s.policy = access.NewPolicy(rpc.Catalogue(), now)
	s.tenants = tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](s.db), limits, now)
	s.people = principal.NewService(ruling[principal.Reader, principal.Tx](s), s.tenants, now)
	s.policies = policy.NewService(ruling[policy.Reader, policy.Tx](s), s.tenants, s.people, s.policy.Catalogue(), now)
	s.engine = rules.NewEngine(rules.Options{
		Store: storage.Bind[rules.Reader, any](s.db), Policy: s.policy, Now: now, Logger: o.Logger,
		Position: func() int64 { return s.follower.Position() }, Fresh: func() time.Time { return s.follower.Fresh() },
	})

	blobs, sharer, sweep, err := s.openReleases(ctx)
	if err != nil {
		return err
	}
	snapshot, timestamp, err := s.keys.ReleaseKeys()
	if err != nil {
		return err
	}
	if s.releases, err = release.New(ctx, release.Options{
		Blobs: blobs, Store: storage.Bind[release.Reader, release.Tx](s.db),
		SnapshotKey: snapshot, TimestampKey: timestamp, Owner: sharer, Sweep: sweep, Clock: now, Logger: o.Logger,
	}); err != nil {
		return err
	}
	if s.install, err = install.New(install.Options{
		URL: set.PublicURL, CA: s.certs.CAPEM, Pin: s.pin, Anchor: anchor, Releases: s.releases,
	}); err != nil {
		return err
	}

	s.tokens = token.NewService(storage.Bind[token.Reader, token.Tx](s.db), s.tenants, token.Options{
		Limits: limits, Pepper: s.keys.Pepper, Anchor: anchor, InstallCommand: s.installCommand, Logger: o.Logger, Now: now,
	})
	s.apikeys = apikey.NewService(storage.Bind[apikey.Reader, apikey.Tx](s.db), s.tenants, apikey.Options{
		Policy: s.policy, Principals: s.people, Pepper: s.keys.Pepper, Domain: passkeys.Domain(set.PublicURL), Known: rpc.Grantable(), Logger: o.Logger, Now: now,
	})
	s.signIns = signins.NewService(storage.Bind[signins.Reader, signins.Tx](s.db), signins.Options{
		Policy: s.policy, Keys: s.apikeys, Users: s.people, Pepper: s.keys.Pepper, Idle: set.SignInIdle, Max: set.SignInMax, Logger: o.Logger, Now: now,
		Watch: s.meters.signIn,
	})
	s.credentials = credentials{s.apikeys, s.signIns}
	s.audit = audit.NewService(storage.Bind[audit.Reader, any](s.db), s.tenants)
	s.reads = audit.NewReads(storage.Bind[any, audit.Appender](s.db), now, o.Logger)
	s.audit.Record(s.reads)
	s.retention = audit.NewRetention(storage.Bind[audit.KeepReader, audit.KeepTx](s.db), s.tenants, now, o.Logger)
	logKey, err := s.keys.AuditKey()
	if err != nil {
		return err
	}
	s.ledger = ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](s.db), ledger.Options{
		Deployment: s.deployment.ID, Epoch: int64(s.deployment.Epoch), Key: logKey, Memory: s.keys.AuditMemory(), Rotation: s.keys.AuditRotation(), Owner: s.replica, Now: now, Logger: o.Logger, Read: s.reads.Note,
	})
	seal, err := s.keys.Seal()
	if err != nil {
		return err
	}
	if s.grants, err = grant.NewService(ruling[grant.Reader, grant.Tx](s), places{s.policies}, s.people, s.policies, grant.Options{
		Known: s.policy.Catalogue(), Seal: seal, Now: now, Logger: o.Logger,
	}); err != nil {
		return err
	}
	s.reviews = review.NewService(ruling[review.Reader, review.Tx](s), places{s.policies}, now, o.Logger)
	if s.passkeys, err = passkey.NewService(storage.Bind[passkey.Reader, passkey.Tx](s.db), passkey.Options{
		PublicURL: set.PublicURL, Users: s.people, Seal: seal, Logger: o.Logger, Now: now,
	}); err != nil {
		return err
	}
	s.invitations = invitation.NewService(storage.Bind[invitation.Reader, invitation.Tx](s.db), s.people, s.keys.Pepper, now)
	s.sessions = console.NewSessions(browsers{s.credentials, nil, s.passkeys, s.invitations}, s.address, now)
	if s.providers, err = providers.NewService(ruling[providers.Reader, providers.Tx](s), s.tenants, s.people, providers.Options{
		PublicURL: set.PublicURL, Seal: seal, Invitations: s.invitations, Logger: o.Logger, Now: now,
	}); err != nil {
		return err
	}
	if s.sinks, err = sink.NewService(storage.Bind[sink.Reader, sink.Tx](s.db), s.tenants, sink.Options{
		Deployment: s.deployment.ID, Seal: seal, Now: now, Log: s.ledger.Current,
	}); err != nil {
		return err
	}
	s.shipper = sink.NewShipper(s.sinks, sink.ShipOptions{Owner: s.replica, DataDir: set.DataDir, Now: now, Logger: o.Logger, Watch: s.meters.shipped, Aside: s.meters.setAside})

	s.directory = fleet.New(fleet.Options{
		Store: storage.Bind[fleet.Reader, fleet.Tx](s.db), Epoch: link.Epoch{Number: s.deployment.Epoch, Began: uint64(s.deployment.EpochBegan)}, Now: now, Logger: o.Logger,
		Tracer: s.tracers.Tracer("loopback/fleet"), Origin: s.db.Origin,
	})
	s.witnesses = witness.New(witness.Options{Store: storage.Bind[witness.Reader, witness.Tx](s.db), Ledger: s.ledger, Fleet: s.directory, Owner: s.replica, Now: now, Logger: o.Logger})
	enrolment := enrol.NewService(storage.Bind[enrol.Reader, enrol.Tx](s.db), uses{s.tokens}, s.directory, now)
	if s.hub, err = link.New(link.Options{
		Fleet: s.directory, Enroller: enroller{enrolment}, Observer: s.directory.Observer(), Announcer: announcer{s.bus, o.Logger},
		Replica: s.replica, Ordered: s.ordered, Shared: set.Cluster.On(), Recheck: s.recheck(), Version: o.Version, ReconnectWindow: set.ReconnectWindow,
		HeartbeatRate: set.HeartbeatRate, AdmissionRate: set.AdmissionRate, EnrolmentRate: set.EnrolmentRate, Proven: s.limits.Shaken, Clock: now, Logger: o.Logger, Registerer: o.Registry,
	}); err != nil {
		return err
	}
	s.directory.Tell(s.hub)
	s.wire = &wire.Server{Keys: s.linkKeys, TrustedProxies: set.Proxies(), Replica: shortName(s.replica)}
	s.hub.Attach(s.wire)
	s.streams = stream.New(stream.Options{
		Keys: s.linkKeys, Secret: s.keys.Pepper, Replica: shortName(s.replica), Admit: s.hub.Admit, Proven: s.hub.Vouch,
		TrustedProxies: set.Proxies(), Logger: o.Logger, Registerer: o.Registry,
		Forward: func(w http.ResponseWriter, r *http.Request, to string) bool {
			return s.peers != nil && s.peers.forwardStream(w, r, to)
		},
		ForwardPoll: s.forwardPoll,
		Where: func(ctx context.Context, id string) string {
			if s.shells == nil || !s.options.Settings.Cluster.On() || !ids.Valid("ses", id) {
				return ""
			}
			return shortName(s.shells.Where(ctx, id))
		},
	})

	s.hosts = host.NewService(storage.Bind[host.Reader, host.Tx](s.db), s.tenants, s.directory, presence{s.hub}, now)
	s.execs = exec.NewService(storage.Bind[exec.Reader, exec.Tx](s.db), s.tenants, s.hosts, s.directory, links{s.hub}, streams{s.streams}, exec.Options{
		Policy: s.policy, Keys: s.apikeys, Replica: s.replica, Now: now, Logger: o.Logger, Registerer: o.Registry,
	})
	s.streams.Adopt(adopt(s.execs))
	s.files = file.NewService(storage.Bind[file.Reader, file.Tx](s.db), s.tenants, s.hosts, s.directory, fileLinks{links{s.hub}, s.replica, s.streams}, fileStreams{s.streams}, file.Options{
		Policy: s.policy, Replica: s.replica, Now: now, Logger: o.Logger, Registerer: o.Registry,
	})
	s.commands = command.NewService(storage.Bind[command.Reader, command.Tx](s.db), s.tenants, runs{s.execs}, now)
	s.locks = lock.NewService(storage.Bind[lock.Reader, lock.Tx](s.db), lock.Options{
		Places: places{s.policies}, Subjects: s.people, Roles: s.policies, Hosts: s.hosts, Policy: s.policy, Now: now, Logger: o.Logger,
	})
	s.questions = rules.NewService(s.engine, places{s.policies}, s.people, fleetHosts{s.hosts, s.directory})
	s.restarts = host.NewRestarts(s.hosts, links{s.hub}, s.policy, o.Logger, o.Registry)
	s.expiry = host.NewExpiry(s.hosts, s.hub, expiryGrace*set.ReconnectWindow, func(err error) { s.log.Error("removing expired hosts", "error", err) })
	if s.shells, err = shell.NewService(storage.Bind[shell.Reader, shell.Tx](s.db), s.hosts, s.directory, places{s.policies}, shellStreams{s}, shell.Options{
		Dir: filepath.Join(set.DataDir, "recordings"), Replica: s.replica, Reached: s.reached(), Policy: s.policy, Seal: seal, Now: now, Logger: o.Logger,
		Registerer: o.Registry,
	}); err != nil {
		return err
	}
	s.streams.Adopt(adoptShell(s.shells))
	s.guests = guest.NewService(storage.Bind[guest.Reader, guest.Tx](s.db), s.directory, guest.Options{
		Policy: s.policy, Keys: s.apikeys, Pepper: s.keys.Pepper, Now: now, Logger: o.Logger, Watching: s.meters.guests.Add, Refused: s.meters.guestRefused,
	})
	if s.sessionReviews, err = sessionreview.NewService(storage.Bind[sessionreview.Reader, sessionreview.Tx](s.db), sessionreview.Options{
		Places: places{s.policies}, Roles: s.policies, Recordings: s.shells, Ledger: s.ledger, Replica: s.replica, Seal: seal, Now: now, Logger: o.Logger,
	}); err != nil {
		return err
	}
	s.settings = settings.NewService(storage.Bind[settings.Reader, settings.Tx](s.db), s.tenants, s.hosts, now)
	s.changes = change.NewService(rpc.Grantable())
	s.jobs = operation.NewService(storage.Bind[operation.Reader, operation.Tx](s.db), s.tenants, now)
	s.worker = operation.NewWorker(operation.Options{
		Store: storage.Bind[operation.Reader, operation.Tx](s.db), Handlers: handlers(host.NewWork(s.hosts, s.hub), s.restarts),
		Owner: s.replica, Now: now, Logger: o.Logger,
	})
	return nil
}

// Bootstrap is the code that makes the first administrator's key. needed is false once there is an administrator.
func (s *Server) Bootstrap(ctx context.Context) (code string, needed bool, err error) {
	return s.apikeys.EnsureBootstrap(ctx)
}

// CAFile is where the local CA's certificate lies; empty when the certificate was given.
func (s *Server) CAFile() string {
	if s.certs.Fingerprint() == "" {
		return ""
	}
	return filepath.Join(s.keys.Dir, "ca.crt")
}

// Fingerprint of the local CA; empty when the certificate was given.
func (s *Server) Fingerprint() string { return s.certs.Fingerprint() }

// Close releases what New opened, for a server that never ran.
func (s *Server) Close() error {
	var err error
	if s.bus != nil {
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = s.bus.Close(end)
	}
	return errors.Join(err, s.db.Close())
}

func (s *Server) linkKeys() wire.ServerKeys {
	_, signed := s.keys.Current()
	return wire.ServerKeys{Private: s.keys.Link.Bytes(), Public: s.keys.Link.PublicKey().Bytes(), Keyset: signed}
}

func (s *Server) installCommand(channel string) string {
	c, err := s.install.Command(channel, "")
	if err != nil {
		return ""
	}
	return c.Line
}

// pin is the SHA-256 of the server's public key; nil where its certificate was given.
func (s *Server) pin() []byte {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.certs.Pin(), "sha256//"))
	if err != nil {
		return nil
	}
	return sum
}

// certificateNames are the names that the local CA's certificate holds: the public URL's, those asked for, this
// machine's.
func certificateNames(s config.Settings) []string {
	names := slices.Clone(s.TLSNames)
	if u, err := url.Parse(s.PublicURL); err == nil {
		names = append(names, u.Hostname())
	}
	if host, _, err := net.SplitHostPort(s.Listen); err == nil && host != "" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	names = append(names, "localhost", "127.0.0.1", "::1")
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
