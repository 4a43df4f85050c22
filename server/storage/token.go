package storage

import (
	"context"
	"strings"

	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/token"
)

var tokensTable = newTable("tokens", func(t *token.Token) []column {
	return append(append(metaColumns(&t.Meta), scopeColumns(&t.Scope)...),
		column{"description", &t.Description}, column{"hash", &t.Hash}, column{"expires_at", moment{&t.ExpiresAt}},
		column{"max_uses", &t.MaxUses}, column{"uses", &t.Uses}, column{"allowed_networks", document{&t.AllowedNetworks}},
		column{"host_name_pattern", &t.HostNamePattern}, column{"requires_approval", &t.RequiresApproval},
		column{"host_labels", document{&t.HostLabels}}, column{"channel", &t.Channel},
		column{"ephemeral_ttl", span{&t.EphemeralTTL}}, column{"honeytoken", &t.Honeytoken},
		column{"created_by", &t.CreatedBy}, column{"last_used_at", moment{&t.LastUsedAt}},
		column{"last_address", &t.LastAddress}, column{"networks", document{&t.Networks}},
		column{"signals", document{&t.Signals}}, column{"successor_id", &t.SuccessorID},
		column{"revoked_at", moment{&t.RevokedAt}}, column{"revoked_by", &t.RevokedBy}, column{"reason", &t.Reason})
})

// Conditions for the states of a token, in the order in which token.Token.State looks.
func revokedToken(now string) string { return "(revoked_at <> 0 AND revoked_at <= " + now + ")" }
func expiredToken(now string) string {
	return "(NOT " + revokedToken(now) + " AND expires_at <= " + now + ")"
}
func exhaustedToken(now string) string {
	return "(NOT " + revokedToken(now) + " AND expires_at > " + now + " AND uses >= max_uses)"
}
func activeToken(now string) string {
	return "(NOT " + revokedToken(now) + " AND expires_at > " + now + " AND uses < max_uses)"
}

// Token by id.
func (v *View) Token(ctx context.Context, id string) (token.Token, error) {
	return tokensTable.one(ctx, v.session, "token "+id, "id = $1", id)
}

// Tokens, newest first, and the token of the next page.
func (v *View) Tokens(ctx context.Context, q token.Query) ([]token.Token, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("name", q.Name)
	if len(q.States) > 0 {
		now := f.arg(micros(q.Now))
		var any []string
		for _, s := range q.States {
			switch s {
			case token.Revoked:
				any = append(any, revokedToken(now))
			case token.Expired:
				any = append(any, expiredToken(now))
			case token.Exhausted:
				any = append(any, exhaustedToken(now))
			case token.Active:
				any = append(any, activeToken(now))
			}
		}
		f.and("(" + strings.Join(append(any, "1 = 0"), " OR ") + ")")
	}
	k := keyset{descending: true, list: fingerprint("tokens", q.Within, q.Name, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := tokensTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(t token.Token) (any, string) { return nil, t.ID })
	return page, next, nil
}

// PutToken inserts or updates.
func (tx *Tx) PutToken(ctx context.Context, t token.Token) (token.Token, error) {
	tx.stamp(feed.Token, &t.Meta, t.Scope)
	err := tokensTable.put(ctx, tx.session, &t)
	return t, err
}
