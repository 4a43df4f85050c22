package storage

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/feed"
)

var hostsTable = newTable("hosts", func(h *host.Host) []column {
	return append(append(metaColumns(&h.Meta), scopeColumns(&h.Scope)...),
		column{"lifecycle", &h.Lifecycle}, column{"lifecycle_reason", &h.LifecycleReason},
		column{"converged", &h.Converged}, column{"online", &h.Online}, column{"updating", &h.Updating},
		column{"updating_until", moment{&h.UpdatingUntil}}, column{"sections", statuses{&h.Sections}},
		column{"modules", document{&h.Modules}}, column{"state", &h.State}, column{"state_reason", &h.StateReason},
		column{"state_since", moment{&h.StateSince}}, column{"forced_labels", document{&h.ForcedLabels}},
		column{"key", &h.Key}, column{"next_key", &h.NextKey}, column{"key_history", document{&h.KeyHistory}},
		column{"generation", &h.Generation}, column{"clones", document{&h.Clones}},
		column{"settling", document{&h.Settling}}, column{"token_id", &h.TokenID}, column{"enrolled_at", moment{&h.EnrolledAt}},
		column{"enrolled_from", &h.EnrolledFrom}, column{"channel", &h.Channel},
		column{"ephemeral_ttl", span{&h.EphemeralTTL}}, column{"settings_revision", &h.SettingsRevision},
		column{"agent_version", &h.AgentVersion}, column{"online_since", moment{&h.OnlineSince}},
		column{"offline_since", moment{&h.OfflineSince}}, column{"last_seen", lastSeen{h}},
		column{"inventory", document{&h.Inventory}}, column{"ceiling", document{&h.Ceiling}},
		column{"provider", &h.Provider}, column{"address", &h.Address}, column{"link", document{&h.Link}},
		column{"troubles", document{&h.Troubles}})
})

// lastSeen is a column to sort by: hosts that are online come after all that are not.
type lastSeen struct{ h *host.Host }

func (l lastSeen) micros() int64 {
	if l.h.Online {
		return math.MaxInt64
	}
	return micros(l.h.OfflineSince)
}

func (l lastSeen) Value() (driver.Value, error) { return l.micros(), nil }

func (l lastSeen) Scan(any) error { return nil } // follows from the others

// statuses stores section statuses as JSON with the digest in hexadecimal.
type statuses struct{ list *[]section.Status }

type status struct {
	Name      string        `json:"name"`
	Epoch     uint32        `json:"epoch,omitempty"`
	Number    uint64        `json:"number,omitempty"`
	Digest    string        `json:"digest,omitempty"`
	State     section.State `json:"state"`
	AppliedAt time.Time     `json:"appliedAt,omitzero"`
	Message   string        `json:"message,omitempty"`
	Frozen    bool          `json:"frozen,omitempty"`
}

func (s statuses) Value() (driver.Value, error) {
	var stored []status
	for _, v := range *s.list {
		digest := ""
		if v.Digest != (section.Digest{}) {
			digest = v.Digest.String()
		}
		stored = append(stored, status{v.Name, v.Revision.Epoch, v.Revision.Number, digest, v.State, v.AppliedAt, v.Message, v.Frozen})
	}
	b, err := json.Marshal(stored)
	return string(b), err
}

func (s statuses) Scan(v any) error {
	var stored []status
	if err := (document{&stored}).Scan(v); err != nil {
		return err
	}
	*s.list = nil
	for _, v := range stored {
		out := section.Status{Name: v.Name, Revision: section.Revision{Epoch: v.Epoch, Number: v.Number}, State: v.State,
			AppliedAt: v.AppliedAt, Message: v.Message, Frozen: v.Frozen}
		if n, err := hex.Decode(out.Digest[:], []byte(v.Digest)); err != nil || v.Digest != "" && n != len(out.Digest) {
			return fmt.Errorf("section %s has the digest %q", v.Name, v.Digest)
		}
		*s.list = append(*s.list, out)
	}
	return nil
}

// Host by id; removed hosts too.
func (v *View) Host(ctx context.Context, id string) (host.Host, error) {
	return hostsTable.one(ctx, v.session, "host "+id, "id = $1", id)
}

// HostsOf are the hosts of these ids, removed ones included, in no order. Ids that there is no host of are passed over.
func (v *View) HostsOf(ctx context.Context, ids []string) ([]host.Host, error) {
	return hostsTable.of(ctx, v.session, ids)
}

// What a key is to a host, as HostByKey answers.
const (
	CurrentKey = "current"
	NextKey    = "next"
	PastKey    = "past"
)

// HostByKey is the host that an Ed25519 public key belongs to, removed hosts included, and what the key is to it:
// "current", "next" (offered, not used yet) or "past".
func (v *View) HostByKey(ctx context.Context, key []byte) (h host.Host, which string, err error) {
	sum := sha256.Sum256(key)
	found, err := hostKeysTable.list(ctx, v.session, "WHERE hash = $1", sum[:])
	if err == nil && len(found) == 0 {
		err = access.NotFound("a host of this key")
	}
	if err != nil {
		return h, "", err
	}
	h, err = v.Host(ctx, found[0].host)
	return h, found[0].which, err
}

// HostsAfter are the next hosts by id, removed ones included: a way to read all of them.
func (v *View) HostsAfter(ctx context.Context, id string, limit int) ([]host.Host, error) {
	return hostsTable.list(ctx, v.session, "WHERE id > $1 ORDER BY id LIMIT $2", id, limit)
}

// hostOrder is how hosts are sorted by a field.
type hostOrder struct {
	column string
	text   bool
	key    func(host.Host) any
}

func timeOrder(column string, key func(host.Host) time.Time) hostOrder {
	return hostOrder{column, false, func(h host.Host) any { return micros(key(h)) }}
}

var hostOrders = map[host.Order]hostOrder{
	host.ByName:         {"name", true, func(h host.Host) any { return h.Name }},
	host.ByState:        {"state", true, func(h host.Host) any { return string(h.State) }},
	host.ByAgentVersion: {"agent_version", true, func(h host.Host) any { return h.AgentVersion }},
	host.BySince:        timeOrder("state_since", func(h host.Host) time.Time { return h.StateSince }),
	host.ByCreatedAt:    timeOrder("created_at", func(h host.Host) time.Time { return h.CreatedAt }),
	host.ByLastSeenAt:   {"last_seen", false, func(h host.Host) any { return lastSeen{&h}.micros() }},
}

// Hosts are a page of a list, the token of the next one, and how many there are on all pages.
func (v *View) Hosts(ctx context.Context, q host.Query) (page []host.Host, next string, total int64, err error) {
	if q.OrderBy == "" {
		q.OrderBy = host.ByName
	}
	order, ok := hostOrders[q.OrderBy]
	if !ok {
		return nil, "", 0, fault.New(fault.Invalid, "order_invalid", "hosts cannot be ordered by %q", q.OrderBy).
			WithHint("order by one of: %s", strings.Join(asStrings(host.Orders), ", "))
	}
	var f filter
	f.readable(anywhere, q.Readable, f.selected)
	f.within(anywhere, q.Within)
	f.equal("name", q.Name)
	f.equal("token_id", q.TokenID)
	among(&f, "id", q.IDs)
	if len(q.States) == 0 {
		f.and("state <> 'removed'")
	}
	among(&f, "state", q.States)
	f.selector(q.Selector)
	if q.Filter != nil {
		f.and(f.expression(q.Filter, hostFields, "host_labels", "host_id"))
	}

	k := keyset{column: order.column, descending: q.Reverse,
		list: fingerprint("hosts", q.Within, q.Name, q.IDs, q.Selector, q.Filter, q.States, q.TokenID, q.OrderBy, q.Reverse)}
	all := f
	if err := k.after(&f, q.Page.Token, order.text); err != nil {
		return nil, "", 0, err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := hostsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", 0, err
	}
	page, next = cut(k, q.Page, list, func(h host.Host) (any, string) { return order.key(h), h.ID })
	if next == "" && q.Page.Token == "" {
		return page, "", int64(len(page)), nil
	}
	total, err = v.number(ctx, "SELECT count(*) FROM hosts"+all.where(), all.args...)
	return page, next, total, err
}

// hostFields are the columns of host.Fields.
var hostFields = map[string]string{
	"name": "name", "id": "id", "state": "state", "reason": "state_reason", "version": "agent_version", "channel": "channel",
	"provider": "provider", "address": "address",
}

// selector demands labels.
func (f *filter) selector(s label.Selector) {
	if len(s) > 0 {
		f.and(f.selected(s))
	}
}

// selected is that a host's labels match. Each requirement is answered by an index.
func (f *filter) selected(s label.Selector) string {
	var all []string
	for _, r := range s {
		key := "SELECT host_id FROM host_labels WHERE key = " + f.arg(r.Key)
		switch r.Operator {
		case label.Exists:
			all = append(all, "id IN ("+key+")")
		case label.NotExists:
			all = append(all, "id NOT IN ("+key+")")
		case label.In:
			all = append(all, "id IN ("+key+" AND "+f.in("value", r.Values)+")")
		case label.NotIn:
			all = append(all, "id NOT IN ("+key+" AND "+f.in("value", r.Values)+")")
		}
	}
	return strings.Join(all, " AND ")
}

// hostKey is a row of host_keys.
type hostKey struct {
	hash        []byte
	host, which string
}

var hostKeysTable = newTable("host_keys", func(k *hostKey) []column {
	return []column{{"hash", &k.hash}, {"host_id", &k.host}, {"which", &k.which}}
})

// hostLabel is a row of host_labels.
type hostLabel struct{ host, key, value string }

var hostLabelsTable = newTable("host_labels", func(l *hostLabel) []column {
	return []column{{"host_id", &l.host}, {"key", &l.key}, {"value", &l.value}}
})

// hostBefore is what PutHost compares with.
type hostBefore struct {
	id, workspace    string
	labels           label.Set
	key, next        []byte
	history          [][]byte
	settingsRevision int64
}

var hostBeforeTable = newTable("hosts", func(b *hostBefore) []column {
	return []column{{"id", &b.id}, {"workspace_id", &b.workspace}, {"labels", document{&b.labels}}, {"key", &b.key},
		{"next_key", &b.next}, {"key_history", document{&b.history}}, {"settings_revision", &b.settingsRevision}}
})

// PutHost inserts or updates. A key that belongs to another host, or did so once, is Exists. SettingsRevision is set to
// the new revision when labels or workspace of a known host change, and never falls.
func (tx *Tx) PutHost(ctx context.Context, h host.Host) (host.Host, error) {
	hosts := []host.Host{h}
	err := tx.PutHosts(ctx, hosts)
	return hosts[0], err
}

// PutHosts is PutHost for many, no two of them the same, in few round trips: everybody's writes wait for them. What is
// stored is left in the slice.
func (tx *Tx) PutHosts(ctx context.Context, hosts []host.Host) error {
	ids := make([]string, len(hosts))
	for i := range hosts {
		ids[i] = hosts[i].ID
	}
	found, err := hostBeforeTable.of(ctx, tx.session, ids)
	if err != nil {
		return err
	}
	known := make(map[string]hostBefore, len(found))
	for _, before := range found {
		known[before.id] = before
	}
	for i := range hosts {
		if err := tx.putHost(ctx, known[hosts[i].ID], &hosts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) putHost(ctx context.Context, before hostBefore, h *host.Host) error {
	if before.workspace != h.Scope.Workspace {
		if err := tx.place(ctx, h.Scope); err != nil {
			return err
		}
	}
	tx.stamp(feed.Host, &h.Meta, h.Scope)
	relabelled := !sameLabels(before.labels, h.Labels)
	h.SettingsRevision = max(h.SettingsRevision, before.settingsRevision)
	// A new host has nothing that it could differ from: hosts that begin alike keep sharing one revision of their settings.
	if before.id != "" && (relabelled || before.workspace != h.Scope.Workspace) {
		h.SettingsRevision = h.Revision
	}
	if err := hostsTable.put(ctx, tx.session, h); err != nil {
		return named(err, "a host", h.Name)
	}
	if relabelled {
		if err := tx.relabel(ctx, before, *h); err != nil {
			return err
		}
	}
	return tx.rekey(ctx, before, *h)
}

// place demands that a workspace exists where a scope says.
func (tx *Tx) place(ctx context.Context, at access.Scope) error {
	w, err := tx.Workspace(ctx, at.Workspace)
	if err == nil && w.Scope() != at {
		err = access.NotFound("workspace " + at.Workspace)
	}
	return err
}

func sameLabels(a, b label.Set) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

func (tx *Tx) relabel(ctx context.Context, before hostBefore, h host.Host) error {
	if len(before.labels) > 0 {
		if err := tx.session.exec(ctx, "DELETE FROM host_labels WHERE host_id = $1", h.ID); err != nil {
			return fmt.Errorf("deleting labels: %w", err)
		}
	}
	for _, key := range h.Labels.Keys() {
		if err := hostLabelsTable.add(ctx, tx.session, &hostLabel{h.ID, key, h.Labels[key]}); err != nil {
			return err
		}
	}
	return nil
}

// keysOf are the hashes of all keys of a host; a key that is several things is the first of current, next, past.
func keysOf(current, next []byte, history [][]byte) map[string]string {
	keys := map[string]string{}
	for _, hash := range history {
		keys[string(hash)] = PastKey
	}
	for _, k := range []struct {
		key   []byte
		which string
	}{{next, NextKey}, {current, CurrentKey}} {
		if len(k.key) > 0 {
			sum := sha256.Sum256(k.key)
			keys[string(sum[:])] = k.which
		}
	}
	return keys
}

func (tx *Tx) rekey(ctx context.Context, before hostBefore, h host.Host) error {
	old, now := keysOf(before.key, before.next, before.history), keysOf(h.Key, h.NextKey, h.KeyHistory)
	for hash := range old {
		if now[hash] == "" { // an offered key that was replaced before it was used
			if err := tx.session.exec(ctx, "DELETE FROM host_keys WHERE hash = $1", []byte(hash)); err != nil {
				return fmt.Errorf("deleting a host's key: %w", err)
			}
		}
	}
	for hash, which := range now {
		var err error
		switch old[hash] {
		case which:
		case "":
			err = hostKeysTable.add(ctx, tx.session, &hostKey{[]byte(hash), h.ID, which})
		default:
			err = hostKeysTable.put(ctx, tx.session, &hostKey{[]byte(hash), h.ID, which})
		}
		if err != nil && fault.KindOf(err) == fault.Exists {
			return fault.New(fault.Exists, "host_key_taken", "the identity key belongs to another host").
				WithHint("a host makes its own key: do not copy /var/lib/loopback from one machine to another").WithCause(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
