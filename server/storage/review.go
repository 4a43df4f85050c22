package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/server/feed"
)

var reviewsTable = newTable("access_reviews", func(r *review.Review) []column {
	return append(append(metaColumns(&r.Meta), scopeColumns(&r.Scope)...),
		column{"description", &r.Description}, column{"state", &r.State}, column{"due_at", moment{&r.DueAt}}, column{"revoke_open", &r.Revoke},
		column{"created_by", &r.CreatedBy}, column{"closed_at", moment{&r.ClosedAt}}, column{"counts", document{&r.Counts}})
})

// reviewItem is a row: an item under a key of its own, which is in the order of the bindings within a review.
type reviewItem struct {
	id string
	review.Item
}

var reviewItemsTable = newTable("access_review_items", func(i *reviewItem) []column {
	return append([]column{{"id", &i.id}, {"review_id", &i.ReviewID}, {"binding_id", &i.BindingID}, {"subject_kind", &i.Subject.Kind}, {"subject_id", &i.Subject.ID},
		{"subject_name", &i.Who}, {"role_id", &i.RoleID}, {"role_name", &i.RoleName}, {"hosts", &i.Hosts}, {"not_after", moment{&i.NotAfter}}, {"about", &i.About},
		{"granted_at", moment{&i.GrantedAt}}, {"granted_by", &i.GrantedBy}, {"last_act", moment{&i.LastAct}}, {"last_seen", moment{&i.LastSeen}},
		{"verdict", &i.Verdict}, {"rationale", &i.Rationale}, {"answered_by", &i.By}, {"answered_name", &i.ByName}, {"answered_at", moment{&i.At}}}, scopeColumns(&i.Scope)...)
})

func itemKey(reviewID, bindingID string) string { return reviewID + "/" + bindingID }

// Review by id.
func (v *View) Review(ctx context.Context, id string) (review.Review, error) {
	return reviewsTable.one(ctx, v.session, "access review "+id, "id = $1", id)
}

// Reviews, newest first, and the token of the next page.
func (v *View) Reviews(ctx context.Context, q review.Query) ([]review.Review, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	among(&f, "state", q.States)
	if !q.DueBy.IsZero() {
		f.and("due_at <= " + f.arg(micros(q.DueBy)))
	}
	k := keyset{descending: true, list: fingerprint("access reviews", q.Within, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := reviewsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(r review.Review) (any, string) { return nil, r.ID })
	return page, next, nil
}

// ReviewItem is one binding under a review.
func (v *View) ReviewItem(ctx context.Context, reviewID, bindingID string) (review.Item, error) {
	i, err := reviewItemsTable.one(ctx, v.session, "binding "+bindingID, "id = $1", itemKey(reviewID, bindingID))
	return i.Item, err
}

// ReviewItems are those of a review, in the order in which the bindings were made, and the token of the next page.
func (v *View) ReviewItems(ctx context.Context, q review.ItemQuery) ([]review.Item, string, error) {
	var f filter
	f.and("review_id = " + f.arg(q.Review))
	among(&f, "verdict", q.Verdicts)
	k := keyset{list: fingerprint("access review items", q.Review, q.Verdicts)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := reviewItemsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(i reviewItem) (any, string) { return nil, i.id })
	out := make([]review.Item, len(page))
	for n := range page {
		out[n] = page[n].Item
	}
	return out, next, nil
}

// CountReviews is how many are open, how many of those were due by a time, and how many bindings in them wait for an answer.
func (v *View) CountReviews(ctx context.Context, overdueAt time.Time) (open, overdue, items int64, err error) {
	err = v.row(ctx, []any{&open, &overdue, &items}, `SELECT count(*), coalesce(sum(CASE WHEN due_at <= $1 THEN 1 ELSE 0 END), 0),
		(SELECT count(*) FROM access_review_items WHERE verdict = 'open' AND review_id IN (SELECT id FROM access_reviews WHERE state = 'open'))
		FROM access_reviews WHERE state = 'open'`, micros(overdueAt))
	return open, overdue, items, err
}

// recentActs is how far back it is looked what somebody's acts rest on.
const recentActs = 10_000

// LastUse is when a credential of a user or service account was last used, and when the last of its recent acts was recorded by what
// each rests on.
func (v *View) LastUse(ctx context.Context, principal string) (review.Use, error) {
	use := review.Use{Acts: map[string]time.Time{}}
	if err := v.row(ctx, []any{moment{&use.Seen}}, `SELECT max(at) FROM (
		SELECT coalesce(max(last_used_at), 0) AS at FROM api_keys WHERE owner_id = $1
		UNION ALL SELECT coalesce(max(last_used_at), 0) FROM sign_ins WHERE user_id = $1) AS used`, principal); err != nil {
		return use, fmt.Errorf("reading when credentials were used: %w", err)
	}
	rows, err := v.session.query(ctx, `SELECT decision, max(at) FROM (
		SELECT decision, at FROM audit_entries WHERE principal = $1 ORDER BY position DESC LIMIT $2) AS recent GROUP BY decision`, principal, recentActs)
	if err != nil {
		return use, fmt.Errorf("reading what acts rest on: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var rule string
		var at time.Time
		if err := rows.Scan(&rule, moment{&at}); err != nil {
			return use, fmt.Errorf("reading what acts rest on: %w", v.session.explain(err))
		}
		use.Acts[rule] = at
	}
	if err := rows.Err(); err != nil {
		return use, fmt.Errorf("reading what acts rest on: %w", v.session.explain(err))
	}
	return use, nil
}

// PutReview inserts or updates.
func (tx *Tx) PutReview(ctx context.Context, r review.Review) (review.Review, error) {
	tx.stamp(feed.AccessReview, &r.Meta, r.Scope)
	err := reviewsTable.put(ctx, tx.session, &r)
	return r, err
}

// PutReviewItem inserts or updates.
func (tx *Tx) PutReviewItem(ctx context.Context, i review.Item) error {
	tx.touch()
	return reviewItemsTable.put(ctx, tx.session, &reviewItem{itemKey(i.ReviewID, i.BindingID), i})
}
