package backup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// RestoreAction is how a restore stands in the audit log.
const RestoreAction access.Permission = "deployment.restore"

// Restored is what a restore came to.
type Restored struct {
	Manifest   Manifest
	Deployment tenant.Deployment // with its new epoch
	Tokens     int               // that ended
	APIKeys    int
	SignIns    int
	Grants     int
}

// Restore makes a data folder from a backup. The folder must not exist, or be empty. database is where the state lies:
// inside the folder, or a PostgreSQL database that was brought back with its own tools already. Should it fail, the
// folder is as it was before.
func Restore(ctx context.Context, from, dataDir, database string, now time.Time) (_ Restored, err error) {
	if entries, err := os.ReadDir(dataDir); err == nil && len(entries) > 0 {
		return Restored{}, fault.New(fault.Precondition, "data_folder_in_use", "%s holds a control plane already", dataDir).
			WithHint("restore into a folder that is empty; move this one away first")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Restored{}, failed(dataDir, err)
	}
	if err := durable.MkdirAll(filepath.Dir(dataDir), 0o755); err != nil {
		return Restored{}, failed(dataDir, err)
	}
	stage, err := os.MkdirTemp(filepath.Dir(dataDir), ".restore-*")
	if err != nil {
		return Restored{}, failed(dataDir, err)
	}
	defer os.RemoveAll(stage)
	m, err := unpack(from, stage)
	if err != nil {
		return Restored{}, err
	}
	elsewhere := m.Database != "sqlite"
	if elsewhere && database == filepath.Join(dataDir, databaseName) {
		return Restored{}, fault.New(fault.Precondition, "database_elsewhere", "this backup holds no database: it was of a control plane on PostgreSQL").
			WithHint("bring the database back with pg_restore, then name it with --database")
	}
	if !elsewhere {
		database = filepath.Join(stage, databaseName)
		if _, err := os.Stat(database); err != nil {
			return Restored{}, unreadable(from, "it holds no database", nil)
		}
	}
	done, err := newEpoch(ctx, database, now)
	if err != nil && !elsewhere && (fault.Of(err).Code == "database_corrupt" || fault.KindOf(err) == fault.NotFound) {
		return Restored{}, unreadable(from, "its database cannot be read", err)
	}
	if err != nil {
		return Restored{}, err
	}
	done.Manifest = m
	if err := os.Remove(dataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Restored{}, failed(dataDir, err)
	}
	if err := os.Rename(stage, dataDir); err != nil {
		return Restored{}, failed(dataDir, err)
	}
	if err := durable.SyncDir(filepath.Dir(dataDir)); err != nil {
		return Restored{}, failed(dataDir, err)
	}
	return done, nil
}

// newEpoch ends what opens anything, in one transaction with its audit entry.
func newEpoch(ctx context.Context, database string, now time.Time) (_ Restored, err error) {
	db, err := storage.Open(ctx, storage.Options{URL: database, Clock: func() time.Time { return now }})
	if err != nil {
		return Restored{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	position, err := db.Position(ctx)
	if err != nil {
		return Restored{}, err
	}
	var done Restored
	actor := access.Actor{Kind: access.System, ID: "system", Name: "loopbackd restore"}
	err = db.Write(ctx, func(tx *storage.Tx) error {
		done = Restored{}
		d, err := tx.Deployment(ctx)
		if err != nil {
			return err
		}
		before := d.Epoch
		d.Epoch++
		d.EpochBegan, d.BootstrapHash, d.BootstrapUsedAt = position, nil, time.Time{}
		done.Deployment = d
		if err := tx.PutDeployment(ctx, d); err != nil {
			return err
		}
		if done.Tokens, err = endTokens(ctx, tx, now); err != nil {
			return err
		}
		if done.APIKeys, err = endKeys(ctx, tx, now); err != nil {
			return err
		}
		ended, err := tx.EndSignIns(ctx, "", now, signin.Restored)
		if err != nil {
			return err
		}
		done.SignIns = len(ended)
		if _, err := tx.RevokeInvitations(ctx, "", now); err != nil {
			return err
		}
		if err := tx.RevokeGuests(ctx, now); err != nil { // one that was taken back since would work again
			return err
		}
		if done.Grants, err = endGrants(ctx, tx, now); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, RestoreAction, access.Scope{}, d.ID, "deployment").Change(
			map[string]any{"epoch": before, "position": position},
			map[string]any{"epoch": d.Epoch, "tokensEnded": done.Tokens, "apiKeysEnded": done.APIKeys, "signInsEnded": done.SignIns, "grantsEnded": done.Grants}))
	})
	return done, err
}

const restoredReason = "a backup was restored"

func endTokens(ctx context.Context, tx *storage.Tx, now time.Time) (ended int, err error) {
	q := token.Query{Readable: access.Everywhere(), States: []token.State{token.Active}, Now: now, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		// Always the first page: those that were revoked are no longer active.
		items, _, err := tx.Tokens(ctx, q)
		if err != nil || len(items) == 0 {
			return ended, err
		}
		for _, t := range items {
			t.RevokedAt, t.RevokedBy, t.Reason = now, "system", restoredReason
			if _, err := tx.PutToken(ctx, t); err != nil {
				return ended, err
			}
			ended++
		}
	}
}

func endKeys(ctx context.Context, tx *storage.Tx, now time.Time) (ended int, err error) {
	q := apikey.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		items, next, err := tx.Keys(ctx, q)
		if err != nil {
			return ended, err
		}
		for _, k := range items {
			if !k.Live(now) {
				continue
			}
			k.RevokedAt = now
			if _, err := tx.PutKey(ctx, k); err != nil {
				return ended, err
			}
			ended++
		}
		if q.Page.Token = next; next == "" {
			return ended, nil
		}
	}
}

func endGrants(ctx context.Context, tx *storage.Tx, now time.Time) (ended int, err error) {
	q := grant.Query{Readable: access.Everywhere(), States: []grant.State{grant.Pending, grant.Active}, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		// Always the first page: those that were ended are of another state.
		items, _, err := tx.Grants(ctx, q, now)
		if err != nil || len(items) == 0 {
			return ended, err
		}
		for _, g := range items {
			if b, err := tx.Binding(ctx, g.BindingID); err == nil {
				err = tx.DeleteBinding(ctx, b)
				if err != nil {
					return ended, err
				}
			} else if fault.KindOf(err) != fault.NotFound {
				return ended, err
			}
			g.State, g.EndedAt, g.EndedBy, g.Comment = grant.Revoked, now, "system", restoredReason
			if _, err := tx.PutGrant(ctx, g); err != nil {
				return ended, err
			}
			ended++
		}
	}
}
