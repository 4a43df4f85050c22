package storage

import (
	"context"
	"database/sql/driver"
	"encoding/json"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var releasesTable = newTable("releases", func(r *release.Release) []column {
	return append(metaColumns(&r.Meta), column{"program", &r.Program}, column{"version", &r.Version},
		column{"channel", &r.Channel}, column{"published_at", moment{&r.PublishedAt}}, column{"targets", targets{&r.Targets}})
})

// targets stores the targets of a release whole: as JSON, a target leaves out what its metadata says elsewhere.
type targets struct{ list *[]release.Target }

type storedTarget struct {
	Path         string `json:"path"`
	Name         string `json:"name"`
	Version      string `json:"version"`
	OS           string `json:"os"`
	Architecture string `json:"arch"`
	Channel      string `json:"channel"`
	Format       string `json:"format,omitempty"`
	Length       int64  `json:"length"`
	SHA256       []byte `json:"sha256"`
}

func (t targets) Value() (driver.Value, error) {
	var stored []storedTarget
	for _, v := range *t.list {
		stored = append(stored, storedTarget(v))
	}
	b, err := json.Marshal(stored)
	return string(b), err
}

func (t targets) Scan(v any) error {
	var stored []storedTarget
	if err := (document{&stored}).Scan(v); err != nil {
		return err
	}
	*t.list = nil
	for _, v := range stored {
		*t.list = append(*t.list, release.Target(v))
	}
	return nil
}

// Release by id.
func (v *View) Release(ctx context.Context, id string) (release.Release, error) {
	return releasesTable.one(ctx, v.session, "release "+id, "id = $1", id)
}

// Releases of a program on a channel (empty: any), newest first, and the token of the next page.
func (v *View) Releases(ctx context.Context, program, channel string, p tenant.Page) ([]release.Release, string, error) {
	var f filter
	f.equal("program", program)
	f.equal("channel", channel)
	k := keyset{descending: true, list: fingerprint("releases", program, channel)}
	if err := k.after(&f, p.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, p)
	list, err := releasesTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, p, list, func(r release.Release) (any, string) { return nil, r.ID })
	return page, next, nil
}

// PutRelease inserts or updates. A program has each version once.
func (tx *Tx) PutRelease(ctx context.Context, r release.Release) (release.Release, error) {
	tx.stamp(feed.Release, &r.Meta, tenant.Organisation{}.Scope())
	err := named(releasesTable.put(ctx, tx.session, &r), "a release", r.Name)
	return r, err
}
