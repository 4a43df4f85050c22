package storage

import (
	"context"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/tenant"
)

func TestSmoke(t *testing.T) {
	db, err := Open(t.Context(), Options{URL: t.TempDir() + "/a b?.db"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	err = db.Write(ctx, func(tx *Tx) error {
		o, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: "org_1", Name: "acme"}})
		if err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.Actor{Kind: access.System}, "organisations.create", o.Scope(), o.ID, o.Name).Change(nil, o))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(ctx, func(tx *Tx) error {
		_, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: "org_2", Name: "acme"}})
		return err
	})
	t.Log(err)
	l, next, err := db.View().Organisations(ctx, tenant.Query{Readable: []access.Scope{{}}})
	t.Log(l, next, err)
	e, err := db.View().Entries(ctx, audit.Query{Readable: []access.Scope{{}}})
	t.Log(e, err)
	c, err := db.Changes(ctx, 0, 10)
	t.Log(c, err)
	if err := db.Backup(ctx, t.TempDir()+"/b"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
