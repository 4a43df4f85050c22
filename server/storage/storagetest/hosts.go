package storagetest

import (
	"context"
	"crypto/sha256"
	"testing"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/storage"
)

var hosts = []test{
	{"a key belongs to one host for ever", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		h := b.host(t, w, nil)
		first, second, third := h.Key, []byte("second"), []byte("third")
		find := func(key []byte, wantID, wantWhich string) {
			t.Helper()
			got, which, err := b.DB.View().HostByKey(t.Context(), key)
			if wantID == "" {
				if fault.KindOf(err) != fault.NotFound {
					t.Errorf("key %q: got %s, %v; wanted NotFound", key, got.ID, err)
				}
				return
			}
			if err != nil || got.ID != wantID || which != wantWhich {
				t.Errorf("key %q: got %s of %s, %v; wanted %s of %s", key, which, got.ID, err, wantWhich, wantID)
			}
		}
		find(first, h.ID, storage.CurrentKey)
		h.NextKey = second
		h = b.putHost(t, h)
		find(second, h.ID, storage.NextKey)
		h.NextKey = third // offered anew before the second was used
		h = b.putHost(t, h)
		find(second, "", "")
		find(third, h.ID, storage.NextKey)
		sum := sha256.Sum256(first)
		h.Key, h.NextKey, h.KeyHistory, h.Generation = third, nil, append(h.KeyHistory, sum[:]), h.Generation+1
		h.Lifecycle, h.State = host.LifecycleRemoved, host.Removed
		h = b.putHost(t, h)
		find(first, h.ID, storage.PastKey)
		find(third, h.ID, storage.CurrentKey)
		for _, taken := range [][]byte{first, third} {
			clone := b.newHost(w)
			clone.Key = taken
			err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutHost(t.Context(), clone); return err })
			if fault.Of(err).Code != "host_key_taken" {
				t.Errorf("a clone with key %q: got %v; wanted host_key_taken", taken, err)
			}
		}
		b.host(t, w, nil) // hosts without any of these
		keyless := b.newHost(w)
		keyless.Key = nil
		b.putHost(t, keyless)
	}},
	{"the settings revision grows with labels, workspace and own settings", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		h := b.host(t, w, nil)
		want := func(what string, revision int64) {
			t.Helper()
			if h.SettingsRevision != revision {
				t.Errorf("%s: got %d; wanted %d", what, h.SettingsRevision, revision)
			}
		}
		want("a new host without labels", 0)
		h.AgentVersion = "1.2.3"
		h = b.putHost(t, h)
		want("another version", 0)
		h.Labels = label.Set{"a": "b"}
		h = b.putHost(t, h)
		labelled := h.Revision
		want("a label", labelled)
		h.AgentVersion, h.SettingsRevision = "1.2.4", 0
		h = b.putHost(t, h)
		want("put with an older number", labelled)
		h.Scope = b.workspace(t).Scope()
		h = b.putHost(t, h)
		want("moved", h.Revision)
		h = b.host(t, w, label.Set{"x": ""})
		want("a new host with labels, which has nothing to differ from", 0)
	}},
	{"all hosts can be walked by id", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		want := map[string]bool{}
		for i := range 25 {
			h := b.newHost(w)
			if i%5 == 0 {
				h.Lifecycle, h.State = host.LifecycleRemoved, host.Removed
			}
			want[b.putHost(t, h).ID] = true
		}
		after := ""
		for {
			list, err := b.DB.View().HostsAfter(t.Context(), after, 4)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, h := range list {
				if h.ID <= after || !want[h.ID] {
					t.Errorf("host %s comes after %s, or twice", h.ID, after)
				}
				delete(want, h.ID)
				after = h.ID
			}
		}
		if len(want) > 0 {
			t.Errorf("%d hosts were not seen", len(want))
		}
	}},
	{"labels follow the host", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		h := b.host(t, w, label.Set{"env": "prod", "gone": "soon"})
		h.Labels = label.Set{"env": "dev"}
		h = b.putHost(t, h)
		for text, want := range map[string]int{"env=dev": 1, "env=prod": 0, "gone": 0, "!gone": 1, "env!=prod": 1, "env in (dev,prod)": 1} {
			s, err := label.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			list, _, total, err := b.DB.View().Hosts(t.Context(), host.Query{Readable: everything, Selector: s})
			if err != nil || len(list) != want || total != int64(want) {
				t.Errorf("%s: got %d hosts of %d, %v; wanted %d", text, len(list), total, err, want)
			}
		}
		h.Labels = nil
		b.putHost(t, h)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			list, _, _, err := tx.Hosts(ctx, host.Query{Readable: everything, Selector: label.Selector{{Key: "env", Operator: label.Exists}}})
			if len(list) != 0 {
				t.Errorf("a host without labels is found by one: %s", list[0].ID)
			}
			return err
		})
	}},
}
