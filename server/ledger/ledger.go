// Package ledger numbers the audit log's entries into a Merkle tree, signs its checkpoints, and hands out what proves
// things with them.
//
// Entries are committed with the changes that they describe, in an order without gaps. Afterwards one replica, the holder
// of the lease, hashes those that are new (Service.Run), and in one transaction compares the tree's size and root with
// what it began from and swaps them. Only what was swapped is signed, and only when there is something new: two replicas
// that both take themselves for the holder sign one history. Behind the last entry the checkpoint is a second or so.
//
// What was signed is remembered in a file beside the keys. A database that knows less than the file, or something else,
// was rolled back or changed: nothing is signed then, and it is said loudly (Status.Halted), until an operator restores
// a backup properly, which begins a new log that names the last checkpoint of the old one.
package ledger

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// Reader reads entries, the state of the logs, and their hashes.
type Reader interface {
	AuditPosition(ctx context.Context) (int64, error)
	AuditLogs(ctx context.Context) ([]ledger.Log, error)
	AuditTile(ctx context.Context, log int64, id ledger.TileID) ([]byte, error)
	EntriesFrom(ctx context.Context, after int64, limit int) ([]audit.Entry, error)
	Entry(ctx context.Context, id string) (audit.Entry, error)
	SchemaNewer(ctx context.Context) (bool, error)
}

// Tx is one transaction over them.
type Tx interface {
	Reader
	PutAuditLog(ctx context.Context, l ledger.Log) error
	PutAuditTiles(ctx context.Context, log int64, tiles []ledger.Tile) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Observe(ctx context.Context, change func(Tx) error) error
	Write(ctx context.Context, change func(Tx) error) error
}

// Memory keeps the last signed checkpoint outside the database.
type Memory interface {
	Load() (note string, err error) // empty: none
	Store(note string) error
}

// Rotation is the key that is to follow the log's.
type Rotation interface {
	Next() (ed25519.PrivateKey, error) // nil: the key stays
	Done() error                       // the next is the log's key from now on, and the one before is gone
}

// Options of the service.
type Options struct {
	Deployment string
	Epoch      int64
	Key        ed25519.PrivateKey
	Memory     Memory
	Rotation   Rotation // nil: the key stays as it is
	Owner      string   // of the lease: the replica
	Now        func() time.Time
	Logger     *slog.Logger                                            // nil: slog.Default
	Read       func(ctx context.Context, at access.Scope, what string) // told of who reads entries; nil: nobody is
	Every      time.Duration                                           // between two looks for something new; 0: a second
}

// Service is the tree.
type Service struct {
	store   Store
	options Options

	mu      sync.Mutex
	key     ledger.Key
	private ed25519.PrivateKey
	status  Status
	checked string // origin of the log that was held against the memory
}

// Status is how far the log is, for metrics.
type Status struct {
	Size     int64     // leaves under the last checkpoint
	SignedAt time.Time // of the last checkpoint
	Waiting  int64     // entries that no checkpoint covers yet
	Halted   error     // why nothing is signed; nil: it is
}

// NewService makes the service. Its Run is what signs.
func NewService(store Store, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	s := &Service{store: store, options: o}
	s.use(o.Key)
	return s
}

// public is the half of a log key that verifiers have.
func (s *Service) public(key ed25519.PrivateKey) ledger.Key {
	return ledger.Key{Name: ledger.KeyName(s.options.Deployment), Public: key.Public().(ed25519.PublicKey)}
}

func (s *Service) use(key ed25519.PrivateKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.private = s.public(key), key
}

// Key is what checkpoints are checked with.
func (s *Service) Key() ledger.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// signer is the key itself.
func (s *Service) signer() ed25519.PrivateKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.private
}

// Status is how far the log is, as this replica last saw it.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// may tells over what the caller holds a permission.
func may(ctx context.Context, p access.Permission) (access.Sight, error) {
	actor := access.ActorFrom(ctx)
	sight := actor.Readable(p)
	switch {
	case len(sight) > 0:
		return sight, nil
	case actor.Kind == access.Anonymous || actor.Kind == "":
		return nil, access.ErrUnauthenticated
	}
	return nil, access.Denied(p)
}

// Log is one by number, the current one where that is 0. A log that nothing is signed of yet is not there.
func (s *Service) Log(ctx context.Context, number int64) (ledger.Log, error) {
	if _, err := may(ctx, audit.Verify); err != nil {
		return ledger.Log{}, err
	}
	return s.log(ctx, number)
}

func (s *Service) log(ctx context.Context, number int64) (ledger.Log, error) {
	logs, err := s.store.View().AuditLogs(ctx)
	if err != nil {
		return ledger.Log{}, err
	}
	for _, l := range logs {
		if number == 0 || l.Number == number {
			if l.Checkpoint == "" {
				return ledger.Log{}, fault.New(fault.Unavailable, "audit_log_unsigned", "nothing of the audit log is signed yet").
					WithHint("try again in a second; if it stays so, look at the control plane's log").WithRetryAfter(time.Second)
			}
			return l, nil
		}
	}
	if number == 0 {
		return ledger.Log{}, fault.New(fault.Unavailable, "audit_log_unsigned", "nothing of the audit log is signed yet").
			WithHint("try again in a second").WithRetryAfter(time.Second)
	}
	return ledger.Log{}, access.NotFound("the audit log")
}

// Current is the log that entries are numbered into, for the control plane itself.
func (s *Service) Current(ctx context.Context) (ledger.Log, error) { return s.log(ctx, 0) }

// tree reads a log's hashes.
func (s *Service) tree(ctx context.Context, log int64) ledger.Tree {
	return ledger.Tiles(s.tiles(ctx, s.store.View(), log))
}

func (s *Service) tiles(ctx context.Context, from Reader, log int64) func(ledger.TileID) ([]byte, error) {
	return func(id ledger.TileID) ([]byte, error) { return from.AuditTile(ctx, log, id) }
}

// Consistency is the proof that the log's first to leaves add to its first from.
func (s *Service) Consistency(ctx context.Context, number, from, to int64) ([]ledger.Hash, error) {
	l, err := s.Log(ctx, number)
	if err != nil {
		return nil, err
	}
	var c fault.Check
	c.That(from >= 0 && from <= to, "from", "is %d; it must not be more than to (%d)", from, to)
	c.That(to <= l.Signed, "to", "is %d; the log has %d leaves", to, l.Signed)
	if err := c.Err("audit_proof_invalid", "the proof that is asked for does not exist"); err != nil {
		return nil, err
	}
	return s.tree(ctx, l.Number).Consistency(from, to)
}

// Grown is Consistency for the control plane itself.
func (s *Service) Grown(ctx context.Context, number, from, to int64) ([]ledger.Hash, error) {
	return s.tree(ctx, number).Consistency(from, to)
}

// Proof shows that an entry is in a log.
type Proof struct {
	Log    ledger.Log
	Leaf   []byte
	Index  int64
	Hashes []ledger.Hash // in the tree that Log.Checkpoint was signed over
}

// Inclusion is the proof of one entry.
func (s *Service) Inclusion(ctx context.Context, entry string) (Proof, error) {
	sight, err := may(ctx, audit.Read)
	if err != nil {
		return Proof{}, err
	}
	e, err := s.store.View().Entry(ctx, entry)
	if err != nil || !sight.Sees(e.Scope) {
		if err == nil || fault.KindOf(err) == fault.NotFound {
			err = access.NotFound("audit entry " + entry)
		}
		return Proof{}, err
	}
	logs, err := s.store.View().AuditLogs(ctx)
	if err != nil {
		return Proof{}, err
	}
	for _, l := range logs {
		if e.Position <= l.Began {
			continue // in one before
		}
		p := Proof{Log: l, Leaf: ledger.Encode(e), Index: e.Position - l.Began - 1}
		if p.Index >= l.Signed {
			break
		}
		p.Hashes, err = s.tree(ctx, l.Number).Inclusion(p.Index, l.Signed)
		return p, err
	}
	return Proof{}, fault.New(fault.Unavailable, "audit_entry_unsigned", "no checkpoint covers this entry yet").
		WithHint("try again in a second").WithRetryAfter(time.Second)
}

// Leaf is an entry's canonical JSON, or its hash alone where its body is gone or not the caller's to read.
type Leaf struct {
	Body   []byte
	Hash   ledger.Hash
	Absent bool // there is no body
}

// Bounds of one answer.
const (
	MaxLeaves = 5000
	maxBytes  = 3 << 20
)

// Leaves are those from an index on, as many as fit into an answer, at least one unless the log ends before. Bodies are
// of what the caller may read; of the rest there is the hash, so that everybody can check the whole tree.
func (s *Service) Leaves(ctx context.Context, number, start int64, limit int) ([]Leaf, error) {
	sight, err := may(ctx, audit.Read)
	if err != nil {
		return nil, err
	}
	l, err := s.log(ctx, number)
	if err != nil {
		return nil, err
	}
	if s.options.Read != nil {
		s.options.Read(ctx, access.Scope{}, "leaves")
	}
	var c fault.Check
	c.That(start >= 0, "start", "is %d; leaves are counted from 0", start)
	c.That(limit >= 0 && limit <= MaxLeaves, "limit", "is %d; at most %d are allowed", limit, MaxLeaves)
	if err := c.Err("audit_query_invalid", "the query is not valid"); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = 1000
	}
	n := min(int64(limit), l.Signed-start)
	if n <= 0 {
		return nil, nil
	}
	bodies := map[int64][]byte{}
	size, reach := 0, l.Began+start // reach is the last position that was looked at
	for reach < l.Began+start+n && size < maxBytes {
		entries, err := s.store.View().EntriesFrom(ctx, reach, int(min(256, l.Began+start+n-reach)))
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			reach = l.Began + start + n
			break
		}
		for _, e := range entries {
			if e.Position > l.Began+start+n {
				break
			}
			if size >= maxBytes {
				break
			}
			reach = e.Position
			bodies[e.Position] = nil
			if sight.Sees(e.Scope) {
				b := ledger.Encode(e)
				bodies[e.Position] = b
				size += len(b)
			}
		}
		if last := entries[len(entries)-1].Position; last > l.Began+start+n {
			reach = l.Began + start + n
		}
	}
	out := make([]Leaf, 0, n)
	tree := s.tree(ctx, l.Number)
	for p := l.Began + start + 1; p <= reach; p++ {
		body, there := bodies[p]
		if body != nil {
			out = append(out, Leaf{Body: body})
			continue
		}
		h, err := tree(0, p-l.Began-1)
		if err != nil {
			return nil, err
		}
		out = append(out, Leaf{Hash: h, Absent: !there})
	}
	return out, nil
}
