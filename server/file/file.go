// Package file brings files to hosts and gets them from there.
//
// A transfer is a row, written with the audit entry that says who moves what, where and why, before any host hears of it. What goes
// on with it is an attempt: the request that brings or fetches the bytes, on whichever replica it comes to.
//
//	caller ══ PUT, GET /file/v1/ID ══ this replica ══ stream ══ host
//	                                       │ row: order                ▲
//	                                       └── replica with the link ──┘
//
// The replica makes an order, awaits its stream, and whoever holds the host's link tells the host (compare and swap on the row). A
// later attempt ends an earlier one, wherever that is: an attempt writes only while the row names it. Bytes are kept nowhere here: a
// slow host holds back the caller, and a slow caller the host.
//
// Whether whoever began it may still do so is asked when its stream comes, and whenever rules change. A transfer with which nobody
// goes on for an hour has failed.
package file

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads transfers.
type Reader interface {
	FileTransfer(ctx context.Context, id string) (file.Transfer, error)
	FileTransferByOrder(ctx context.Context, order string) (file.Transfer, error)
	FileTransferByRequest(ctx context.Context, actorID, requestID string) (file.Transfer, error)
	FileTransfers(ctx context.Context, q file.Query) ([]file.Transfer, string, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutFileTransfer(ctx context.Context, t file.Transfer) (file.Transfer, error)
	PruneFileTransfers(ctx context.Context, before time.Time) (more bool, err error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace by id or name.
type Tenants interface {
	Frame(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Hosts finds hosts that the caller holds a permission on.
type Hosts interface {
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
}

// Fleet is every host in memory.
type Fleet interface {
	Host(id string) (*host.Host, bool)
}

// Order is what a host is told.
type Order struct {
	ID         string
	NotAfter   time.Time
	Grant      string
	Replica    string // that awaits the stream
	Credential []byte
	Task       file.Task
}

// Links reach the hosts.
type Links interface {
	// Online tells whether a host is linked to any replica, or was a moment ago.
	Online(hostID string) bool
	// Holds tells whether its link is here.
	Holds(hostID string) bool
	// Order tells a host of an order; false where its link is not here.
	Order(hostID string, o Order) bool
}

// Session is a stream that a host is to dial.
type Session struct {
	ID        string
	HostID    string
	End       *stream.End
	Authorise func(context.Context) error
}

// Streams are where hosts' streams come in.
type Streams interface {
	Credential(id string) []byte
	Expect(Session) (forget func())
}

// Options of a Service.
type Options struct {
	Policy     *access.Policy
	Replica    string
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service moves files.
type Service struct {
	Options
	store   Store
	tenants Tenants
	hosts   Hosts
	fleet   Fleet
	links   Links
	streams Streams
	metrics *metrics

	mu   sync.Mutex
	live map[string]*attempt // by transfer
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, hosts Hosts, fleet Fleet, links Links, streams Streams, o Options) *Service {
	return &Service{Options: o, store: store, tenants: tenants, hosts: hosts, fleet: fleet, links: links, streams: streams,
		metrics: newMetrics(o.Registerer), live: map[string]*attempt{}}
}

// Request is what somebody wants moved.
type Request struct {
	Workspace string
	Host      string // id or name
	Task      file.Task
	RequestID string
}

// Start records a transfer. Its bytes are brought or fetched behind it.
func (s *Service) Start(ctx context.Context, q Request) (file.Transfer, error) {
	actor, need := access.ActorFrom(ctx), q.Task.Kind.Permission()
	h, err := s.hosts.Find(ctx, q.Host, q.Workspace, need)
	if err != nil {
		return file.Transfer{}, err
	}
	if q.Task.Kind == file.OfHost {
		q.Task.Path = h.Name + "-diagnosis.tar.gz"
	}
	if err := q.Task.Validate(); err != nil {
		return file.Transfer{}, err
	}
	if q.Task.Kind != file.OfHost && actor.Reason == "" {
		return file.Transfer{}, fault.New(fault.Invalid, "reason_required", "moving a file needs a reason").
			WithHint("say why: loopback --reason 'what for' file …, or the header %s", access.ReasonHeader)
	}
	if done, err := s.store.View().FileTransferByRequest(ctx, actor.ID, q.RequestID); err == nil {
		return done, nil
	}
	if err := s.able(h, q.Task.Kind); err != nil {
		return file.Transfer{}, err
	}
	now, decision := s.Now().UTC(), actor.DecideOn(need, h.Scope, h.ID, h.Labels)
	t := file.Transfer{Meta: tenant.Meta{ID: id.New("file", now), Name: q.Task.Path}, Scope: h.Scope, HostID: h.ID, HostName: h.Name, State: file.Waiting,
		Task: q.Task, RequestID: q.RequestID, Actor: exec.ActorOf(actor, decision)}
	t.Task.Transfer = t.ID
	err = s.store.Write(ctx, func(tx Tx) error {
		var err error
		if t, err = tx.PutFileTransfer(ctx, t); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, need, t.Scope, t.ID, t.Name).By(decision).Change(nil, describe(t)))
	})
	if err == nil {
		s.metrics.started.WithLabelValues(string(t.Task.Kind)).Inc()
	}
	return t, err
}

// able demands that a host can do it now.
func (s *Service) able(h host.Host, kind file.Kind) error {
	if now, ok := s.fleet.Host(h.ID); ok {
		h = *now
	}
	switch {
	case h.Lifecycle != host.LifecycleActive:
		return errNotManaged
	case !s.links.Online(h.ID):
		return fault.New(fault.Unavailable, "host_offline", "host %s is offline", h.Name).WithHint("see since when: loopback host show %s", h.Name)
	case kind != file.OfHost && !h.Ceiling.Files:
		return fault.New(fault.Precondition, "files_not_allowed", "host %s allows no files to be put or got", h.Name).
			WithHint("its administrator decides that: allow: {files: true} in /etc/loopback/agent.yaml there, then restart the agent")
	}
	return nil
}

// record is a transfer as the audit log has it.
type record struct {
	Host    string     `json:"host"`
	Name    string     `json:"hostName"`
	Kind    file.Kind  `json:"kind"`
	Path    string     `json:"path"`
	Size    int64      `json:"size"`
	SHA256  string     `json:"sha256,omitempty"`
	Mode    string     `json:"mode,omitempty"`
	Owner   string     `json:"owner,omitempty"`
	State   file.State `json:"state"`
	Error   string     `json:"error,omitempty"`
	Attempt int64      `json:"attempts,omitempty"`
}

// List is the transfers that the caller may see, newest first.
func (s *Service) List(ctx context.Context, workspace string, q file.Query) ([]file.Transfer, string, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous || actor.Kind == "" {
		return nil, "", access.ErrUnauthenticated
	}
	if workspace != "" {
		w, err := s.tenants.Frame(ctx, workspace, file.Read)
		if err != nil {
			return nil, "", err
		}
		q.Within = w.Scope()
	}
	q.Readable = actor.Readable(file.Read)
	return s.store.View().FileTransfers(ctx, q)
}

// Get is one transfer.
func (s *Service) Get(ctx context.Context, id string) (file.Transfer, error) {
	return s.permitted(ctx, s.store.View(), id, file.Read)
}

// permitted is a transfer on which the caller holds a permission; who began it sees and ends it wherever they hold that.
func (s *Service) permitted(ctx context.Context, r Reader, id string, p access.Permission) (file.Transfer, error) {
	t, err := r.FileTransfer(ctx, id)
	if err != nil {
		return file.Transfer{}, err
	}
	actor := access.ActorFrom(ctx)
	if t.Actor.ID == actor.ID && actor.Touches(p) {
		return t, nil
	}
	return t, actor.Require(p, t.Scope, file.Read, "file transfer "+id)
}

// Cancel has a transfer end.
func (s *Service) Cancel(ctx context.Context, id string) (file.Transfer, error) {
	var t file.Transfer
	err := s.store.Write(ctx, func(tx Tx) (err error) {
		if t, err = s.permitted(ctx, tx, id, file.Cancel); err != nil {
			return err
		}
		if t.State.Over() {
			return errOver(t)
		}
		actor := access.ActorFrom(ctx)
		t.State, t.EndedAt, t.ErrorCode, t.Error = file.Cancelled, s.Now().UTC(), file.ErrCancelled.Code, "cancelled by "+actor.Name
		if t, err = tx.PutFileTransfer(ctx, t); err != nil {
			return err
		}
		if err := tx.Audit(ctx, audit.Of(actor, file.Cancel, t.Scope, t.ID, t.Name)); err != nil {
			return err
		}
		return tx.Audit(ctx, ended(t))
	})
	if err == nil {
		s.metrics.ended.WithLabelValues(string(t.Task.Kind), string(t.State)).Inc()
		s.overtake(t)
	}
	return t, err
}

func ended(t file.Transfer) audit.Entry {
	return audit.Of(access.Actor{Kind: access.System, ID: "system", Name: "file"}, file.End, t.Scope, t.ID, t.Name).Because(t.Actor.Reason).Change(nil, describe(t))
}

// What is said of transfers.
var (
	errNotManaged = fault.New(fault.Precondition, "host_not_managed", "the host is not managed, and takes no orders")
	errAbandoned  = fault.New(fault.Timeout, "file_abandoned", "nobody went on with the transfer for an hour")
	errOvertaken  = fault.New(fault.Precondition, "file_overtaken", "somebody else goes on with the transfer")
	errNoAnswer   = fault.New(fault.Unavailable, "host_silent", "the host did not answer in time")
	errLost       = fault.New(fault.Unavailable, "host_lost", "the host was lost on the way; the transfer can go on")
	errTooLarge   = fault.New(fault.Exhausted, "file_too_large", "the file is larger than the host said, or than is carried: 64 GiB")
	errSuspended  = fault.New(fault.Unavailable, "file_suspended", "whoever brings or fetches the file is gone; the transfer can go on")
)

func errOver(t file.Transfer) error {
	why := string(t.State)
	if t.Error != "" {
		why += ": " + t.Error
	}
	f := fault.New(file.ErrOver.Kind, file.ErrOver.Code, "the transfer is over: %s", why)
	f.Hint = t.Hint
	return f
}

// Follow looks at transfers that changed, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, _, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		for _, c := range changes {
			if c.Kind == feed.File && !c.Deleted {
				s.look(ctx, c.ID)
			}
		}
	}
}

// look tells the host, where its link is here, and ends an attempt here that was overtaken.
func (s *Service) look(ctx context.Context, id string) {
	t, err := s.store.View().FileTransfer(ctx, id)
	if err == nil {
		s.overtake(t)
		err = s.dispatch(ctx, t)
	}
	if err != nil && !errors.Is(err, context.Canceled) && fault.KindOf(err) != fault.NotFound {
		s.Logger.Warn("file: cannot look at a transfer", "transfer", id, "error", err)
	}
}

// dispatch tells a host that is linked here of its order.
func (s *Service) dispatch(ctx context.Context, t file.Transfer) error {
	if t.State != file.Running || t.Sent || s.Now().After(t.NotAfter) || !s.links.Holds(t.HostID) {
		return nil
	}
	sent := false
	err := s.store.Observe(ctx, func(tx Tx) error {
		stored, err := tx.FileTransfer(ctx, t.ID)
		if sent = err == nil && stored.OrderID == t.OrderID && stored.State == file.Running && !stored.Sent; !sent {
			return err // another replica has it, or it was overtaken
		}
		stored.Sent = true
		_, err = tx.PutFileTransfer(ctx, stored)
		return err
	})
	if err != nil || !sent {
		return err
	}
	s.links.Order(t.HostID, Order{ID: t.OrderID, NotAfter: t.NotAfter, Grant: t.Actor.Rule, Replica: t.Replica, Credential: s.streams.Credential(t.OrderID), Task: t.Task})
	return nil // where the link has gone meanwhile, the host is silent, and said to be
}

// overtake ends an attempt here that is not the transfer's any more.
func (s *Service) overtake(t file.Transfer) {
	s.mu.Lock()
	a := s.live[t.ID]
	s.mu.Unlock()
	switch {
	case a == nil:
	case t.State == file.Cancelled:
		a.end.Close(file.ErrCancelled)
	case t.State.Over():
		a.end.Close(fault.Of(errOver(t)))
	case t.Attempt != a.t.Attempt:
		a.end.Close(errOvertaken)
	}
}

// Reported takes a host's word that it refuses an order. It does not wait.
func (s *Service) Reported(hostID, orderID string, why *fault.Error) {
	go func() { // bounded by its timeout
		ctx, cancel := context.WithTimeout(context.Background(), endWithin)
		defer cancel()
		t, err := s.store.View().FileTransferByOrder(ctx, orderID)
		if err == nil && t.HostID == hostID {
			t, err = s.put(ctx, t, func(t *file.Transfer) {
				t.State, t.ErrorCode, t.Error, t.Hint = file.Failed, why.Code, why.Message, why.Hint
			})
			if err == nil {
				s.overtake(t)
			}
		}
		if err != nil {
			s.Logger.Warn("file: cannot note what a host says of an order", "order", orderID, "error", err)
		}
	}()
}

// How long a transfer waits for somebody to go on with it, and is kept after its end. That it was stays in the audit log.
const (
	abandonedAfter = time.Hour
	kept           = 30 * 24 * time.Hour
)

// Run ends what nobody goes on with, and deletes what nobody is expected to look at any more, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		if err := s.tidy(ctx); err != nil && ctx.Err() == nil {
			s.Logger.Warn("file: cannot tidy up", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) tidy(ctx context.Context) error {
	open, _, err := s.store.View().FileTransfers(ctx, file.Query{Readable: access.Everywhere(), States: []file.State{file.Waiting, file.Running}})
	if err != nil {
		return err
	}
	for _, t := range open {
		if s.Now().Sub(t.UpdatedAt) < abandonedAfter {
			continue
		}
		if _, err := s.put(ctx, t, func(t *file.Transfer) {
			t.State, t.ErrorCode, t.Error = file.Failed, errAbandoned.Code, errAbandoned.Message
		}); err != nil && !errors.Is(err, errOvertaken) {
			return err
		}
	}
	for more := true; more && err == nil; {
		err = s.store.Observe(ctx, func(tx Tx) (err error) { more, err = tx.PruneFileTransfers(ctx, s.Now().UTC().Add(-kept)); return err })
	}
	return err
}

// put changes a transfer that is still in the same attempt, and says its end where that is one.
func (s *Service) put(ctx context.Context, of file.Transfer, change func(*file.Transfer)) (t file.Transfer, err error) {
	err = s.store.Observe(ctx, func(tx Tx) (err error) {
		if t, err = tx.FileTransfer(ctx, of.ID); err != nil {
			return err
		}
		if t.Attempt != of.Attempt || t.State.Over() {
			return errOvertaken
		}
		if change(&t); t.State.Over() {
			t.EndedAt = s.Now().UTC()
			if err := tx.Audit(ctx, ended(t)); err != nil {
				return err
			}
		}
		t, err = tx.PutFileTransfer(ctx, t)
		return err
	})
	if err == nil && t.State.Over() {
		s.metrics.ended.WithLabelValues(string(t.Task.Kind), string(t.State)).Inc()
	}
	return t, err
}

type metrics struct {
	started, ended, bytes *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_file_transfers_started_total", Help: "Transfers of files, and diagnoses, that were begun, by kind."}, []string{"kind"}),
		ended:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_file_transfers_ended_total", Help: "Transfers of files, and diagnoses, that have ended, by kind and how."}, []string{"kind", "state"}),
		bytes:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_file_bytes_total", Help: "Bytes of files that were carried, those that had to be carried again among them, by kind."}, []string{"kind"}),
	}
	if r != nil {
		r.MustRegister(m.started, m.ended, m.bytes)
	}
	return m
}
