// Package audit shows the audit log to those who may read it.
//
// An entry belongs to the place where its act happened, and is seen by who holds audit.read there. What happened to the
// deployment as a whole, a refused key of nobody's for example, is seen by who may read all of it. Newest first is for
// people; from a position on, oldest first, is for programs that follow the log and must miss nothing: positions are
// given in commit order, so whoever remembers the last one they saw sees every later entry exactly once.
package audit

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads the log.
type Reader interface {
	Entries(ctx context.Context, q audit.Query) ([]audit.Entry, error)
}

// Store is where the log is kept.
type Store interface {
	View() Reader
}

// Tenants finds a workspace where the caller holds a permission.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Service is the log as people read it.
type Service struct {
	store   Store
	tenants Tenants
	reads   *Reads // nil: nobody keeps book
}

// NewService makes the service.
func NewService(store Store, tenants Tenants) *Service {
	return &Service{store: store, tenants: tenants}
}

// Record has every read written down.
func (s *Service) Record(r *Reads) { s.reads = r }

// looked is what a query looks for, in a word that is the same for all pages of it.
func (q Query) looked() string {
	words := []string{"entries"}
	if q.After > 0 {
		words[0] = "new entries"
	}
	for _, w := range [][2]string{{"action", string(q.Action)}, {"target", q.Target}, {"actor", q.Actor}} {
		if w[1] != "" {
			words = append(words, w[0]+"="+w[1])
		}
	}
	return strings.Join(words, " ")
}

// Query is what a reader asks for.
type Query struct {
	Workspace    string // empty: wherever the caller may read
	Action       access.Permission
	Target       string
	Actor        string
	Since, Until time.Time
	After        int64 // follow from the entry after this position on, oldest first; 0: newest first
	Page         tenant.Page
}

// List is a page of entries and what asks for the next.
func (s *Service) List(ctx context.Context, q Query) ([]audit.Entry, string, error) {
	var c fault.Check
	c.That(q.After >= 0, "afterPosition", "is %d; positions start at 1", q.After)
	c.That(q.Since.IsZero() || q.Until.IsZero() || q.Since.Before(q.Until), "since", "is not before until")
	in := audit.Query{
		Readable: access.ActorFrom(ctx).Readable(audit.Read), Action: q.Action, Target: q.Target, Actor: q.Actor,
		Since: q.Since, Until: q.Until, After: q.After, Limit: q.Page.Limit() + 1,
	}
	if q.Page.Token != "" {
		position, err := strconv.ParseInt(q.Page.Token, 10, 64)
		c.That(err == nil && position > 0, "page.token", "is not from an earlier answer")
		if q.After > 0 {
			in.After = position
		} else {
			in.Before = position
		}
	}
	if err := c.Err("audit_query_invalid", "the query is not valid"); err != nil {
		return nil, "", err
	}
	if q.Workspace != "" {
		w, err := s.tenants.Workspace(ctx, q.Workspace, audit.Read)
		if err != nil {
			return nil, "", err
		}
		in.Within = w.Scope()
	}
	if s.reads != nil && len(in.Readable) > 0 {
		s.reads.Note(ctx, in.Within, q.looked())
	}
	// One more than asked for tells whether there is a next page.
	entries, err := s.store.View().Entries(ctx, in)
	if err != nil || len(entries) <= q.Page.Limit() {
		return entries, "", err
	}
	entries = entries[:q.Page.Limit()]
	return entries, strconv.FormatInt(entries[len(entries)-1].Position, 10), nil
}
