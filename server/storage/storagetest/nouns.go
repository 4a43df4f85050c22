package storagetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/witness"
)

var prefixes = cmpopts.EquateComparable(netip.Prefix{})

// filler gives every field of a value something of its own, so that one that is not stored shows.
type filler struct{ n int }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(epoch.Add(time.Duration(f.n) * time.Millisecond)))
		return
	case time.Duration:
		v.SetInt(int64(time.Duration(f.n) * time.Second))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", f.n%256))))
		return
	case *host.Clones:
		v.Set(reflect.ValueOf(&host.Clones{}))
		f.fill(v.Elem())
		return
	case json.RawMessage:
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, f.n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("ünïcode '%d", f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n % 256))
	case reflect.Float64:
		v.SetFloat(float64(f.n) + 0.5)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key)
			f.fill(value)
			v.SetMapIndex(key, value)
		}
	case reflect.Pointer: // to what is alive, never to what is stored
	default:
		panic("the test does not know how to fill a " + v.Type().String())
	}
}

func filled[T any]() (v T) {
	(&filler{}).fill(reflect.ValueOf(&v).Elem())
	return v
}

// kept puts a value with every field set, and one with none, and reads both back.
func kept[T any](t *testing.T, b *bench, prepare func(v *T, id string),
	put func(ctx context.Context, tx *storage.Tx, v T) (T, error), get func(ctx context.Context, id string) (T, error)) {
	t.Helper()
	for id, value := range map[string]T{"id_full": filled[T](), "id_empty": *new(T)} {
		prepare(&value, id)
		var stored T
		b.pass(time.Second)
		b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { stored, err = put(ctx, tx, value); return })
		got, err := get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(stored, got, prefixes); diff != "" {
			t.Errorf("%s: what was read is not what was stored (-stored +read):\n%s", id, diff)
		}
		// Beyond what storing stamps, the stored value is the one that was given.
		again := value
		for _, name := range []string{"Meta", "SettingsRevision"} {
			if field := reflect.ValueOf(&again).Elem().FieldByName(name); field.IsValid() {
				field.Set(reflect.ValueOf(stored).FieldByName(name))
			}
		}
		if diff := cmp.Diff(again, stored, prefixes); diff != "" {
			t.Errorf("%s: storing changed it (-given +stored):\n%s", id, diff)
		}
		if meta := reflect.ValueOf(stored).FieldByName("Meta"); meta.IsValid() {
			m := meta.Interface().(tenant.Meta)
			position, err := b.DB.Position(t.Context())
			if err != nil || m.Revision != position || !m.UpdatedAt.Equal(b.now()) || m.CreatedAt.IsZero() {
				t.Errorf("%s is stamped %+v; wanted revision %d and time %s", id, m, position, b.now())
			}
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := put(ctx, tx, stored); return err })
			if got, err = get(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if after := reflect.ValueOf(got).FieldByName("Meta").Interface().(tenant.Meta); after.Revision != m.Revision+1 || !after.CreatedAt.Equal(m.CreatedAt) {
				t.Errorf("%s put again is stamped %+v after %+v; wanted the next revision and the same creation", id, after, m)
			}
		}
	}
	if _, err := get(t.Context(), "id_none"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an unknown id: got %v; wanted NotFound", err)
	}
}

// nouns: every field of every noun is kept.
var nouns = []test{
	{"organisation", func(t *testing.T, b *bench) {
		kept(t, b, func(o *tenant.Organisation, id string) { o.ID, o.Name = id, id },
			func(ctx context.Context, tx *storage.Tx, o tenant.Organisation) (tenant.Organisation, error) {
				return tx.PutOrganisation(ctx, o)
			}, b.DB.View().Organisation)
	}},
	{"project", func(t *testing.T, b *bench) {
		o := b.organisation(t)
		kept(t, b, func(p *tenant.Project, id string) { p.ID, p.Name, p.OrganisationID = id, id, o.ID },
			func(ctx context.Context, tx *storage.Tx, p tenant.Project) (tenant.Project, error) {
				return tx.PutProject(ctx, p)
			}, b.DB.View().Project)
	}},
	{"workspace", func(t *testing.T, b *bench) {
		p := b.project(t, b.organisation(t))
		kept(t, b, func(w *tenant.Workspace, id string) {
			w.ID, w.Name, w.OrganisationID, w.ProjectID = id, id, p.OrganisationID, p.ID
		}, func(ctx context.Context, tx *storage.Tx, w tenant.Workspace) (tenant.Workspace, error) {
			return tx.PutWorkspace(ctx, w)
		}, b.DB.View().Workspace)
	}},
	{"token", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		kept(t, b, func(k *token.Token, id string) { k.ID, k.Scope = id, w.Scope() },
			func(ctx context.Context, tx *storage.Tx, k token.Token) (token.Token, error) {
				return tx.PutToken(ctx, k)
			},
			b.DB.View().Token)
	}},
	{"host", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		kept(t, b, func(h *host.Host, id string) { h.ID, h.Scope = id, w.Scope() },
			func(ctx context.Context, tx *storage.Tx, h host.Host) (host.Host, error) { return tx.PutHost(ctx, h) },
			b.DB.View().Host)
	}},
	{"operation", func(t *testing.T, b *bench) {
		kept(t, b, func(o *operation.Operation, id string) { o.ID = id },
			func(ctx context.Context, tx *storage.Tx, o operation.Operation) (operation.Operation, error) {
				return tx.PutOperation(ctx, o)
			}, b.DB.View().Operation)
	}},
	{"API key", func(t *testing.T, b *bench) {
		kept(t, b, func(k *apikey.Key, id string) { k.ID = id },
			func(ctx context.Context, tx *storage.Tx, k apikey.Key) (apikey.Key, error) { return tx.PutKey(ctx, k) },
			b.DB.View().Key)
		used := b.now().Add(time.Hour)
		for _, at := range []time.Time{used, b.now()} { // an older use does not undo a newer one
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return tx.TouchKey(t.Context(), "id_empty", at) }); err != nil {
				t.Fatal(err)
			}
		}
		if k, err := b.DB.View().Key(t.Context(), "id_empty"); err != nil || !k.LastUsedAt.Equal(used) {
			t.Errorf("last used at %s, %v; wanted %s", k.LastUsedAt, err, used)
		}
	}},
	{"sign-in", func(t *testing.T, b *bench) {
		kept(t, b, func(s *signin.SignIn, id string) { s.ID = id },
			func(ctx context.Context, tx *storage.Tx, s signin.SignIn) (signin.SignIn, error) {
				return tx.PutSignIn(ctx, s)
			},
			b.DB.View().SignIn)
		live := signin.SignIn{Meta: tenant.Meta{ID: "id_live"}, UserID: "usr_1", ExpiresAt: b.now().Add(time.Hour), Idle: time.Minute, LastUsedAt: b.now()}
		idle, over, ended := live, live, live
		idle.ID, over.ID, ended.ID = "id_idle", "id_over", "id_ended"
		idle.LastUsedAt, over.ExpiresAt, ended.EndedAt = b.now().Add(-time.Minute), b.now(), b.now()
		for _, s := range []signin.SignIn{live, idle, over, ended} {
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutSignIn(ctx, s); return err })
		}
		q := signin.Query{Readable: everything, User: "usr_1", LiveAt: b.now()}
		list := func(q signin.Query) (ids []string) {
			t.Helper()
			l, _, err := b.DB.View().SignIns(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range l {
				ids = append(ids, s.ID)
			}
			return ids
		}
		q.LiveAt = live.LastUsedAt
		if got := list(q); len(got) != 1 || got[0] != "id_live" {
			t.Errorf("live are %v", got)
		}
		var gone []string
		b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
			gone, err = tx.EndSignIns(ctx, "usr_1", live.LastUsedAt, signin.SignedOut)
			return
		})
		if got := list(q); len(gone) != 3 || len(got) != 0 {
			t.Errorf("%v were ended; live are %v", gone, got)
		}
		if n, err := b.DB.View().LiveSignIns(t.Context(), live.LastUsedAt); err != nil || n > 1 {
			t.Errorf("%d are live, %v", n, err)
		}
	}},
	{"device", func(t *testing.T, b *bench) {
		full := filled[signin.Device]()
		full.ID, full.ExpiresAt = "dvc_full", b.now().Add(time.Hour)
		waits := signin.Device{ID: "dvc_waits", Network: "here", CreatedAt: b.now(), ExpiresAt: b.now().Add(time.Hour), CodeHash: []byte("code")}
		for _, d := range []signin.Device{full, waits} {
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return tx.PutDevice(t.Context(), d) }); err != nil {
				t.Fatal(err)
			}
			if got, err := b.DB.View().Device(t.Context(), d.ID); err != nil || cmp.Diff(d, got) != "" {
				t.Errorf("%v (-stored +read):\n%s", err, cmp.Diff(d, got))
			}
		}
		if d, err := b.DB.View().DeviceByCode(t.Context(), []byte("code")); err != nil || d.ID != "dvc_waits" {
			t.Errorf("by code: %+v, %v", d, err)
		}
		if all, here, err := b.DB.View().WaitingDevices(t.Context(), "here", b.now()); err != nil || all != 1 || here != 1 {
			t.Errorf("%d wait, %d here, %v", all, here, err)
		}
		if all, here, err := b.DB.View().WaitingDevices(t.Context(), "there", b.now().Add(time.Hour)); err != nil || all != 0 || here != 0 {
			t.Errorf("an hour later %d wait, %d there, %v", all, here, err)
		}
	}},
	{"passkey", func(t *testing.T, b *bench) {
		kept(t, b, func(p *passkey.Passkey, id string) {
			p.ID, p.UserID, p.CredentialID, p.PublicKey = id, "usr_1", []byte(id), []byte{1}
		},
			func(ctx context.Context, tx *storage.Tx, p passkey.Passkey) (passkey.Passkey, error) {
				return tx.PutPasskey(ctx, p)
			}, b.DB.View().Passkey)
		if p, err := b.DB.View().PasskeyByCredential(t.Context(), []byte("id_full")); err != nil || p.ID != "id_full" {
			t.Errorf("by credential: %+v, %v", p, err)
		}
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutPasskey(t.Context(), passkey.Passkey{Meta: tenant.Meta{ID: "id_twin"}, CredentialID: []byte("id_full"), PublicKey: []byte{1}})
			return err
		}); err == nil {
			t.Error("two passkeys have one credential id")
		}
		if l, _, err := b.DB.View().Passkeys(t.Context(), passkey.Query{Readable: everything, User: "usr_1"}); err != nil || len(l) != 2 {
			t.Errorf("listed are %+v, %v", l, err)
		}
		var gone []string
		b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
			gone, err = tx.DeletePasskeys(ctx, "usr_1")
			return
		})
		if _, err := b.DB.View().Passkey(t.Context(), "id_full"); len(gone) != 2 || fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleted %v, then %v", gone, err)
		}
	}},
	{"other ways in", func(t *testing.T, b *bench) {
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for _, p := range []provider.Provider{{Meta: tenant.Meta{ID: "idp_on", Name: "on"}}, {Meta: tenant.Meta{ID: "idp_off", Name: "off"}, Disabled: true}} {
				if _, err := tx.PutProvider(ctx, p); err != nil {
					return err
				}
				if _, err := tx.PutIdentity(ctx, provider.Identity{Meta: tenant.Meta{ID: "idn_" + p.Name}, ProviderID: p.ID, UserID: "usr_1"}); err != nil {
					return err
				}
			}
			for id, k := range map[string]apikey.Key{"key_live": {ExpiresAt: b.now().Add(time.Hour)}, "key_over": {ExpiresAt: b.now().Add(-time.Hour)}, "key_gone": {ExpiresAt: b.now().Add(time.Hour), RevokedAt: b.now()}} {
				k.ID, k.OwnerID = id, "usr_1"
				if _, err := tx.PutKey(ctx, k); err != nil {
					return err
				}
			}
			return nil
		})
		for user, want := range map[string]int64{"usr_1": 2, "usr_2": 0} {
			if n, err := b.DB.View().OtherWaysIn(t.Context(), user, b.now()); err != nil || n != want {
				t.Errorf("%s has %d, %v; want %d", user, n, err, want)
			}
		}
	}},
	{"a ceremony is used up once, whichever replica asks", func(t *testing.T, b *bench) {
		other := b.open(t)
		var first atomic.Int64
		var all sync.WaitGroup
		until := b.now().Add(time.Minute)
		for i := range 16 {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				err := db.Observe(t.Context(), func(tx *storage.Tx) error {
					ok, err := tx.SpendCeremony(t.Context(), "cer_1", until)
					if err == nil && !ok {
						return fault.New(fault.Conflict, "spent", "spent")
					}
					return err
				})
				if err == nil {
					first.Add(1)
				} else if fault.Of(err).Code != "spent" {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if first.Load() != 1 {
			t.Errorf("%d times", first.Load())
		}
	}},
	{"guesses are counted together, whichever replica they are made on", func(t *testing.T, b *bench) {
		other := b.open(t)
		var all sync.WaitGroup
		for i := range 12 {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				if err := db.Observe(t.Context(), func(tx *storage.Tx) error {
					_, err := tx.Guess(t.Context(), "usr_1", epoch.Add(-time.Hour))
					if err == nil && i >= 8 {
						err = tx.Unguess(t.Context(), "usr_1")
					}
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		guess := func(who string, since time.Time) (n int64) {
			t.Helper()
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) (err error) { n, err = tx.Guess(t.Context(), who, since); return }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n, theirs := guess("usr_1", epoch.Add(-time.Hour)), guess("usr_2", epoch.Add(-time.Hour)); n != 9 || theirs != 1 {
			t.Errorf("after 8 wrong ones the next is number %d, somebody else's number %d", n, theirs)
		}
		if n := guess("usr_1", b.now()); n != 1 {
			t.Errorf("later it is number %d", n)
		}
	}},
	{"provider", func(t *testing.T, b *bench) {
		kept(t, b, func(p *provider.Provider, id string) { p.ID, p.Name = id, id },
			func(ctx context.Context, tx *storage.Tx, p provider.Provider) (provider.Provider, error) {
				return tx.PutProvider(ctx, p)
			}, b.DB.View().Provider)
		if p, err := b.DB.View().ProviderNamed(t.Context(), "id_full"); err != nil || p.ID != "id_full" {
			t.Errorf("by name: %+v, %v", p, err)
		}
		kept(t, b, func(i *provider.Identity, id string) { i.ID, i.ProviderID = id, "id_full" },
			func(ctx context.Context, tx *storage.Tx, i provider.Identity) (provider.Identity, error) {
				return tx.PutIdentity(ctx, i)
			}, b.DB.View().Identity)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			return tx.DeleteProvider(ctx, provider.Provider{Meta: tenant.Meta{ID: "id_full"}})
		})
		if l, _, err := b.DB.View().Identities(t.Context(), provider.Query{}); err != nil || len(l) != 0 {
			t.Errorf("without their provider there are %+v, %v", l, err)
		}
	}},
	{"release", func(t *testing.T, b *bench) {
		kept(t, b, func(r *release.Release, id string) { r.ID = id },
			func(ctx context.Context, tx *storage.Tx, r release.Release) (release.Release, error) {
				return tx.PutRelease(ctx, r)
			}, b.DB.View().Release)
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			r := filled[release.Release]()
			r.ID = "id_other"
			_, err := tx.PutRelease(t.Context(), r)
			return err
		})
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("the same version again: got %v; wanted Exists", err)
		}
	}},
	{"settings", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		h := b.host(t, w, nil)
		for id, read := range map[string]func(context.Context, string) (settings.Stored, error){
			w.ID: b.DB.View().WorkspaceSettings, h.ID: b.DB.View().HostSettings} {
			if got, err := read(t.Context(), id); err != nil || got.Revision != 0 {
				t.Errorf("before: got %+v, %v; wanted nothing", got, err)
			}
			for _, value := range []settings.Settings{filled[settings.Settings](), {}, {Modules: []string{}}} {
				var stored settings.Stored
				b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
					if id == w.ID {
						stored, err = tx.PutWorkspaceSettings(ctx, id, value)
					} else {
						stored, err = tx.PutHostSettings(ctx, id, value)
					}
					return
				})
				got, err := read(t.Context(), id)
				if diff := cmp.Diff(settings.Stored{Settings: value, Revision: stored.Revision}, got, prefixes); err != nil || diff != "" || got.Revision == 0 {
					t.Errorf("%v (-stored +read):\n%s", err, diff)
				}
				if h, err := b.DB.View().Host(t.Context(), h.ID); err != nil || id == h.ID && h.SettingsRevision != stored.Revision {
					t.Errorf("the host notes settings revision %d, %v; wanted %d", h.SettingsRevision, err, stored.Revision)
				}
			}
		}
	}},
	{"principal", func(t *testing.T, b *bench) {
		kept(t, b, func(p *principal.Principal, id string) { p.ID = "usr_" + id }, func(ctx context.Context, tx *storage.Tx, p principal.Principal) (principal.Principal, error) {
			return tx.PutPrincipal(ctx, p)
		}, func(ctx context.Context, id string) (principal.Principal, error) {
			return b.DB.View().Principal(ctx, "usr_"+id)
		})
	}},
	{"group", func(t *testing.T, b *bench) {
		kept(t, b, func(g *principal.Group, id string) { g.ID = id }, func(ctx context.Context, tx *storage.Tx, g principal.Group) (principal.Group, error) {
			return tx.PutGroup(ctx, g)
		}, func(ctx context.Context, id string) (principal.Group, error) { return b.DB.View().Group(ctx, id) })
	}},
	{"role", func(t *testing.T, b *bench) {
		kept(t, b, func(r *policy.Role, id string) { r.ID, r.BuiltIn = id, false }, func(ctx context.Context, tx *storage.Tx, r policy.Role) (policy.Role, error) {
			return tx.PutRole(ctx, r)
		}, func(ctx context.Context, id string) (policy.Role, error) { return b.DB.View().Role(ctx, id) })
	}},
	{"binding", func(t *testing.T, b *bench) {
		kept(t, b, func(v *policy.Binding, id string) { v.ID = id }, func(ctx context.Context, tx *storage.Tx, v policy.Binding) (policy.Binding, error) {
			return tx.PutBinding(ctx, v)
		}, func(ctx context.Context, id string) (policy.Binding, error) { return b.DB.View().Binding(ctx, id) })
	}},
	{"grant policy", func(t *testing.T, b *bench) {
		kept(t, b, func(p *grant.Policy, id string) { p.ID = id }, func(ctx context.Context, tx *storage.Tx, p grant.Policy) (grant.Policy, error) {
			return tx.PutGrantPolicy(ctx, p)
		}, func(ctx context.Context, id string) (grant.Policy, error) { return b.DB.View().GrantPolicy(ctx, id) })
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			p := filled[grant.Policy]()
			p.ID = "id_other"
			_, err := tx.PutGrantPolicy(t.Context(), p)
			return err
		})
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("a second one for the same role at the same place: got %v; wanted Exists", err)
		}
	}},
	{"grant", func(t *testing.T, b *bench) {
		kept(t, b, func(g *grant.Grant, id string) { g.ID = id }, func(ctx context.Context, tx *storage.Tx, g grant.Grant) (grant.Grant, error) {
			return tx.PutGrant(ctx, g)
		}, func(ctx context.Context, id string) (grant.Grant, error) { return b.DB.View().Grant(ctx, id) })
	}},
	{"shell session", func(t *testing.T, b *bench) {
		kept(t, b, func(s *shell.Session, id string) { s.ID = id }, func(ctx context.Context, tx *storage.Tx, s shell.Session) (shell.Session, error) {
			return tx.PutShellSession(ctx, s)
		}, func(ctx context.Context, id string) (shell.Session, error) { return b.DB.View().ShellSession(ctx, id) })
	}},
	{"shell sessions are found by state, host and whose they are, and counted while they are open", func(t *testing.T, b *bench) {
		here, there := access.Scope{Organisation: "o", Project: "p", Workspace: "w"}, access.Scope{Organisation: "o2", Project: "p2", Workspace: "w2"}
		for _, s := range []shell.Session{
			{Meta: tenant.Meta{ID: "ses_1"}, Scope: here, HostID: "hst_1", Principal: "usr_1", State: shell.Ended, Replica: "a"},
			{Meta: tenant.Meta{ID: "ses_2"}, Scope: here, HostID: "hst_1", Principal: "usr_2", State: shell.Running, Replica: "a"},
			{Meta: tenant.Meta{ID: "ses_3"}, Scope: there, HostID: "hst_2", Principal: "usr_1", State: shell.Opening, Replica: "b"},
		} {
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutShellSession(ctx, s); return err })
		}
		ids := func(list []shell.Session) string {
			var out []string
			for _, s := range list {
				out = append(out, s.ID)
			}
			return strings.Join(out, " ")
		}
		for want, q := range map[string]shell.Query{
			"ses_3 ses_2 ses_1": {Readable: everything},
			"ses_2 ses_1":       {Readable: access.Over(here)},
			"ses_3 ses_2":       {Readable: everything, States: []shell.State{shell.Running, shell.Opening}},
			"ses_3":             {Readable: everything, Within: there},
			"ses_3 ses_1":       {Readable: everything, Who: "usr_1"},
			"ses_1":             {Readable: everything, Host: "hst_1", Who: "usr_1"},
			"":                  {},
		} {
			list, _, err := b.DB.View().ShellSessions(t.Context(), q)
			if got := ids(list); err != nil || got != want {
				t.Errorf("%+v: got %q, %v; wanted %q", q, got, err, want)
			}
		}
		for replica, want := range map[string]string{"": "ses_2 ses_3", "a": "ses_2", "c": ""} {
			if list, err := b.DB.View().OpenShellSessions(t.Context(), replica); err != nil || ids(list) != want {
				t.Errorf("open at %q: got %q, %v; wanted %q", replica, ids(list), err, want)
			}
		}
		for _, c := range []struct {
			host, who string
			want      int64
		}{{"hst_1", "", 1}, {"", "usr_1", 1}, {"hst_2", "usr_2", 0}, {"", "", 2}} {
			if n, err := b.DB.View().CountShellSessions(t.Context(), c.host, c.who); err != nil || n != c.want {
				t.Errorf("open on %q of %q: got %d, %v; wanted %d", c.host, c.who, n, err, c.want)
			}
		}
	}},
	{"grants are found by state, by whose they are and when they are due", func(t *testing.T, b *bench) {
		now := b.now()
		here, there := access.Scope{Organisation: "o", Project: "p", Workspace: "w"}, access.Scope{Organisation: "o2", Project: "p2", Workspace: "w2"}
		for _, g := range []grant.Grant{
			{Meta: tenant.Meta{ID: "gnt_1"}, Scope: here, Subject: access.Subject{Kind: access.User, ID: "usr_1"}, State: grant.Pending, ExpiresAt: now.Add(time.Hour)},
			{Meta: tenant.Meta{ID: "gnt_2"}, Scope: here, Subject: access.Subject{Kind: access.User, ID: "usr_2"}, State: grant.Pending, ExpiresAt: now.Add(-time.Hour)},
			{Meta: tenant.Meta{ID: "gnt_3"}, Scope: there, Subject: access.Subject{Kind: access.User, ID: "usr_1"}, State: grant.Active, NotAfter: now.Add(-time.Second), BindingID: "bnd_1"},
			{Meta: tenant.Meta{ID: "gnt_4"}, Scope: here, Subject: access.Subject{Kind: access.User, ID: "usr_2"}, State: grant.Active, NotAfter: now.Add(time.Hour), BindingID: "bnd_1"},
			{Meta: tenant.Meta{ID: "gnt_5"}, Scope: there, Subject: access.Subject{Kind: access.User, ID: "usr_2"}, State: grant.Active, NotAfter: now.Add(time.Hour), BindingID: "bnd_gone"},
		} {
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutGrant(ctx, g); return err })
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			_, err := tx.PutBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: "bnd_1"}})
			return err
		})
		ids := func(list []grant.Grant) string {
			var out []string
			for _, g := range list {
				out = append(out, g.ID)
			}
			return strings.Join(out, " ")
		}
		for want, q := range map[string]grant.Query{
			"gnt_5 gnt_4 gnt_3 gnt_2 gnt_1": {Readable: everything},
			"gnt_4 gnt_2 gnt_1":             {Readable: access.Over(here)},
			"gnt_4 gnt_3 gnt_2 gnt_1":       {Readable: access.Over(here), Own: "usr_1"},
			"gnt_3 gnt_1":                   {Own: "usr_1"},
			"gnt_2":                         {Readable: everything, States: []grant.State{grant.Expired}},
			"gnt_5 gnt_4":                   {Readable: everything, States: []grant.State{grant.Active}},
			"gnt_5":                         {Readable: everything, Within: there, States: []grant.State{grant.Active}},
		} {
			list, _, err := b.DB.View().Grants(t.Context(), q, now)
			if got := ids(list); err != nil || got != want {
				t.Errorf("%+v: got %q, %v; wanted %q", q, got, err, want)
			}
		}
		due, err := b.DB.View().DueGrants(t.Context(), now)
		if got := ids(due); err != nil || got != "gnt_2 gnt_3 gnt_5" {
			t.Errorf("due are %q, %v", got, err)
		}
		for subject, want := range map[string]int64{"": 2, "usr_1": 1, "usr_3": 0} {
			if n, err := b.DB.View().CountGrants(t.Context(), grant.Pending, subject); err != nil || n != want {
				t.Errorf("%q has %d pending, %v; wanted %d", subject, n, err, want)
			}
		}
		if list, err := b.DB.View().GrantPoliciesAbout(t.Context(), here); err != nil || len(list) > 0 {
			t.Errorf("got %v, %v", list, err)
		}
		if roles, err := b.DB.View().RolesNamed(t.Context(), "owner"); err != nil || len(roles) != 1 {
			t.Errorf("got %v, %v", roles, err)
		}
	}},
	{"session review", func(t *testing.T, b *bench) {
		kept(t, b, func(r *sessionreview.Review, id string) { r.ID = id }, func(ctx context.Context, tx *storage.Tx, r sessionreview.Review) (sessionreview.Review, error) {
			return tx.PutSessionReview(ctx, r)
		}, func(ctx context.Context, id string) (sessionreview.Review, error) {
			return b.DB.View().SessionReview(ctx, id)
		})
	}},
	{"session review policy", func(t *testing.T, b *bench) {
		kept(t, b, func(p *sessionreview.Policy, id string) { p.ID = id; p.Scope = access.Scope{Organisation: id} }, func(ctx context.Context, tx *storage.Tx, p sessionreview.Policy) (sessionreview.Policy, error) {
			return tx.PutSessionReviewPolicy(ctx, p)
		}, func(ctx context.Context, id string) (sessionreview.Policy, error) {
			all, err := b.DB.View().SessionReviewPolicies(ctx)
			for _, p := range all {
				if p.ID == id {
					return p, err
				}
			}
			if err == nil {
				err = access.NotFound("session review policy " + id)
			}
			return sessionreview.Policy{}, err
		})
	}},
	{"sessions that ended are found with their reviews, draws and commands", func(t *testing.T, b *bench) {
		noon := time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC)
		put := func(do func(ctx context.Context, tx *storage.Tx) error) {
			t.Helper()
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return do(t.Context(), tx) }); err != nil {
				t.Fatal(err)
			}
		}
		w1 := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
		put(func(ctx context.Context, tx *storage.Tx) error {
			for i, s := range []shell.Session{{State: shell.Running}, {State: shell.Ended, Verdict: shell.Disagreed}, {State: shell.Ended, Verdict: shell.Agreed},
				{State: shell.Ended, Verdict: shell.Agreed, EndReason: "the control plane could not record it any further: full"}} {
				s.ID, s.Scope, s.EndedAt = fmt.Sprint("ses_", i), w1, noon.Add(time.Duration(i)*time.Hour)
				if s.State != shell.Ended {
					s.EndedAt = time.Time{}
				}
				if _, err := tx.PutShellSession(ctx, s); err != nil {
					return err
				}
			}
			if _, err := tx.PutSessionReview(ctx, sessionreview.Review{Meta: tenant.Meta{ID: "srv_2"}, Scope: w1, SessionID: "ses_2", State: sessionreview.Open, DueAt: noon}); err != nil {
				return err
			}
			if err := tx.PutSessionDraw(ctx, sessionreview.Month{ID: "2026-10", Committed: [32]byte{1, 31: 2}, Sealed: []byte{3}}); err != nil {
				return err
			}
			return tx.PutShellCommands(ctx, "ses_1", []sessionreview.Commanded{{SessionID: "ses_1", Scope: w1, Principal: "usr_1", HostID: "hst_1", At: noon, Command: "ls", Times: 2},
				{SessionID: "ses_1", Scope: w1, Principal: "usr_1", HostID: "hst_1", At: noon, Command: "df -h", Times: 1}})
		})
		view := b.DB.View()
		for _, c := range []struct {
			from, to time.Time
			unlooked bool
			after    string
			want     string
		}{
			{noon, noon.Add(24 * time.Hour), false, "", "ses_1 ses_2 ses_3"},
			{noon, noon.Add(24 * time.Hour), true, "", "ses_1 ses_3"},
			{noon, noon.Add(24 * time.Hour), false, "ses_1", "ses_2 ses_3"},
			{noon.Add(2 * time.Hour), noon.Add(3 * time.Hour), false, "", "ses_2"},
		} {
			list, err := view.EndedShellSessions(t.Context(), c.from, c.to, c.unlooked, c.after, 10)
			var got []string
			for _, s := range list {
				got = append(got, s.ID)
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("%+v: got %v, %v", c, got, err)
			}
		}
		live, compared, unrecorded, err := view.CountShells(t.Context(), noon)
		if err != nil || live[shell.Running] != 1 || compared[shell.Agreed] != 2 || compared[shell.Disagreed] != 1 || unrecorded != 1 {
			t.Errorf("counted are %v %v %d, %v", live, compared, unrecorded, err)
		}
		if open, overdue, err := view.CountSessionReviews(t.Context(), noon); err != nil || open != 1 || overdue != 1 {
			t.Errorf("%d open, %d overdue, %v", open, overdue, err)
		}
		due, err := view.UndrawnMonths(t.Context())
		if err != nil || len(due) != 1 || due[0].Committed != [32]byte{1, 31: 2} {
			t.Errorf("to be drawn are %v, %v", due, err)
		}
		due[0].DrawnAt, due[0].Sealed = noon, []byte{}
		put(func(ctx context.Context, tx *storage.Tx) error { return tx.PutSessionDraw(ctx, due[0]) })
		if due, err = view.UndrawnMonths(t.Context()); err != nil || len(due) != 0 {
			t.Errorf("drawn, and still to be drawn: %v, %v", due, err)
		}
		commands := func(sight access.Sight) int {
			list, err := view.ShellCommands(t.Context(), sight, access.Scope{}, noon, noon.Add(time.Hour), 10)
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		if n := commands(everything); n != 2 {
			t.Errorf("%d commands", n)
		}
		if n := commands(access.Over(access.Scope{Organisation: "org_2"})); n != 0 {
			t.Errorf("%d commands elsewhere", n)
		}
		put(func(ctx context.Context, tx *storage.Tx) error { return tx.DeleteShellCommands(ctx, "ses_1") })
		if n := commands(everything); n != 0 {
			t.Errorf("%d commands after they were forgotten", n)
		}
	}},
	{"guest of a shell", func(t *testing.T, b *bench) {
		kept(t, b, func(g *guest.Guest, id string) { g.ID, g.ExpiresAt = id, b.now() }, func(ctx context.Context, tx *storage.Tx, g guest.Guest) (guest.Guest, error) {
			return tx.PutGuest(ctx, g)
		}, func(ctx context.Context, id string) (guest.Guest, error) { return b.DB.View().Guest(ctx, id) })
	}},
	{"guests are found and counted by session, and forgotten a month after their time", func(t *testing.T, b *bench) {
		put := func(id, session string, ends time.Time, revoked time.Time) {
			t.Helper()
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				_, err := tx.PutGuest(ctx, guest.Guest{Meta: tenant.Meta{ID: id}, SessionID: session, ExpiresAt: ends, RevokedAt: revoked})
				return err
			})
		}
		hour := b.now().Add(time.Hour)
		put("gst_1", "ses_1", hour, time.Time{})
		put("gst_2", "ses_1", hour, b.now())
		put("gst_3", "ses_1", b.now(), time.Time{})
		put("gst_4", "ses_2", hour.Add(40*24*time.Hour), time.Time{})
		put("gst_5", "ses_1", hour, time.Time{})
		var got []string
		for q := (guest.Query{Session: "ses_1", Page: tenant.Page{Size: 3}}); ; {
			list, next, err := b.DB.View().Guests(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range list {
				got = append(got, g.ID)
			}
			if q.Page.Token = next; next == "" {
				break
			}
		}
		if strings.Join(got, " ") != "gst_5 gst_3 gst_2 gst_1" {
			t.Errorf("found are %v", got)
		}
		if n, err := b.DB.View().CountGuests(t.Context(), "ses_1", b.now()); err != nil || n != 2 {
			t.Errorf("%d links work, %v; wanted 2", n, err)
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.RevokeGuests(ctx, b.now()) })
		for id, want := range map[string]guest.State{"gst_1": guest.Revoked, "gst_3": guest.Expired, "gst_4": guest.Revoked} {
			if g, err := b.DB.View().Guest(t.Context(), id); err != nil || g.State(b.now()) != want {
				t.Errorf("all links are taken back: %s is %s, %v", id, g.State(b.now()), err)
			}
		}
		b.pass(32 * 24 * time.Hour)
		put("gst_6", "ses_3", b.now(), time.Time{})
		if list, _, err := b.DB.View().Guests(t.Context(), guest.Query{Session: "ses_1"}); err != nil || len(list) != 0 {
			t.Errorf("after a month there are %v, %v", list, err)
		}
		if _, err := b.DB.View().Guest(t.Context(), "gst_4"); err != nil {
			t.Errorf("one whose time is to come: %v", err)
		}
	}},
	{"lock", func(t *testing.T, b *bench) {
		kept(t, b, func(l *lock.Lock, id string) { l.ID = id }, func(ctx context.Context, tx *storage.Tx, l lock.Lock) (lock.Lock, error) {
			return tx.PutLock(ctx, l)
		}, func(ctx context.Context, id string) (lock.Lock, error) { return b.DB.View().Lock(ctx, id) })
	}},
	{"locks are found by state, place and end, and whom they keep out is no owner", func(t *testing.T, b *bench) {
		now := time.Now()
		put := func(do func(ctx context.Context, tx *storage.Tx) error) {
			t.Helper()
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return do(t.Context(), tx) }); err != nil {
				t.Fatal(err)
			}
		}
		put(func(ctx context.Context, tx *storage.Tx) error {
			for i, name := range []string{"usr_1", "usr_2", "usr_3"} {
				if _, err := tx.PutPrincipal(ctx, principal.Principal{Meta: tenant.Meta{ID: name, Name: name}, Kind: access.User}); err != nil {
					return err
				}
				subject := access.Subject{Kind: access.User, ID: name}
				if i == 2 {
					subject = access.Subject{Kind: access.Group, ID: "grp_1"}
				}
				if _, err := tx.PutBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: "bnd_" + name}, Subject: subject, RoleID: policy.Owner}); err != nil {
					return err
				}
			}
			_, err := tx.PutGroup(ctx, principal.Group{Meta: tenant.Meta{ID: "grp_1", Name: "crew"}, Members: []string{"usr_3"}})
			return err
		})
		owners := func(want ...string) {
			t.Helper()
			if got, err := b.DB.View().Owners(t.Context()); err != nil || !slices.Equal(got, want) {
				t.Errorf("the owners are %v, %v, want %v", got, err, want)
			}
		}
		owners("usr_1", "usr_2", "usr_3")
		w1 := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
		lockOf := func(id string, target lock.Target, at access.Scope, end time.Time) {
			t.Helper()
			put(func(ctx context.Context, tx *storage.Tx) error {
				_, err := tx.PutLock(ctx, lock.Lock{Meta: tenant.Meta{ID: id}, Scope: at, Target: target, State: lock.Active, NotAfter: end})
				return err
			})
		}
		lockOf("lck_1", lock.Target{Kind: lock.User, ID: "usr_1"}, access.Scope{}, now.Add(-time.Minute))
		owners("usr_2", "usr_3")
		lockOf("lck_2", lock.Target{Kind: lock.Group, ID: "grp_1"}, w1, now.Add(time.Minute))
		owners("usr_2")
		lockOf("lck_3", lock.Target{Kind: lock.Host, ID: "usr_2"}, w1, time.Time{})
		owners("usr_2")
		lockOf("lck_4", lock.Target{Kind: lock.Role, ID: policy.Owner}, w1, time.Time{})
		owners()
		for _, c := range []struct {
			q    lock.Query
			want string
		}{
			{lock.Query{Readable: everything}, "lck_4 lck_3 lck_2 lck_1"},
			{lock.Query{Readable: access.Over(access.Scope{Organisation: "org_1"})}, "lck_4 lck_3 lck_2"},
			{lock.Query{Readable: everything, Within: w1, Target: policy.Owner}, "lck_4"},
			{lock.Query{Readable: everything, States: []lock.State{lock.Lifted}}, ""},
			{lock.Query{Readable: everything, States: []lock.State{lock.Active}, Over: now}, "lck_1"},
			{lock.Query{}, ""},
		} {
			list, _, err := b.DB.View().Locks(t.Context(), c.q)
			var got []string
			for _, l := range list {
				got = append(got, l.ID)
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("%+v: got %v, %v, want %s", c.q, got, err, c.want)
			}
		}
	}},
	{"access review", func(t *testing.T, b *bench) {
		kept(t, b, func(r *review.Review, id string) { r.ID = id }, func(ctx context.Context, tx *storage.Tx, r review.Review) (review.Review, error) {
			return tx.PutReview(ctx, r)
		}, func(ctx context.Context, id string) (review.Review, error) { return b.DB.View().Review(ctx, id) })
	}},
	{"bindings under review are found in order, with when they were used", func(t *testing.T, b *bench) {
		now := b.now()
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for id, due := range map[string]time.Time{"rvw_1": now.Add(-time.Hour), "rvw_2": now.Add(time.Hour)} {
				if _, err := tx.PutReview(ctx, review.Review{Meta: tenant.Meta{ID: id}, State: review.Open, DueAt: due}); err != nil {
					return err
				}
			}
			for _, id := range []string{"bnd_3", "bnd_1", "bnd_2"} {
				i := filled[review.Item]()
				i.ReviewID, i.BindingID, i.Verdict = "rvw_1", id, review.Unasked
				if id == "bnd_2" {
					i.Verdict = review.Kept
				}
				if err := tx.PutReviewItem(ctx, i); err != nil {
					return err
				}
			}
			for i := range 3 {
				e := audit.Entry{Actor: access.Actor{Principal: "usr_1"}, Decision: fmt.Sprint("bnd_", i%2), Action: "a.b"}
				if err := tx.Audit(ctx, e); err != nil {
					return err
				}
			}
			k := apikey.Key{Meta: tenant.Meta{ID: "key_1"}, OwnerID: "usr_1", LastUsedAt: now.Add(-time.Minute)}
			_, err := tx.PutKey(ctx, k)
			return err
		})
		want := filled[review.Item]()
		want.ReviewID, want.BindingID, want.Verdict = "rvw_1", "bnd_3", review.Unasked
		got, err := b.DB.View().ReviewItem(t.Context(), "rvw_1", "bnd_3")
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-stored +read):\n%s", err, diff)
		}
		var ids []string
		for q := (review.ItemQuery{Review: "rvw_1", Page: tenant.Page{Size: 2}}); ; {
			page, next, err := b.DB.View().ReviewItems(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range page {
				ids = append(ids, i.BindingID)
			}
			if q.Page.Token = next; next == "" {
				break
			}
		}
		if got := strings.Join(ids, " "); got != "bnd_1 bnd_2 bnd_3" {
			t.Errorf("got %q in pages of two", got)
		}
		due, _, err := b.DB.View().Reviews(t.Context(), review.Query{Readable: everything, States: []review.State{review.Open}, DueBy: now})
		if err != nil || len(due) != 1 || due[0].ID != "rvw_1" {
			t.Errorf("due are %v, %v", due, err)
		}
		if open, overdue, items, err := b.DB.View().CountReviews(t.Context(), now); err != nil || open != 2 || overdue != 1 || items != 2 {
			t.Errorf("got %d open, %d overdue, %d to be answered, %v; wanted 2, 1, 2", open, overdue, items, err)
		}
		use, err := b.DB.View().LastUse(t.Context(), "usr_1")
		if err != nil || !use.Seen.Equal(now.Add(-time.Minute).Truncate(time.Microsecond)) || len(use.Acts) != 2 || use.Acts["bnd_1"].IsZero() {
			t.Errorf("got %+v, %v", use, err)
		}
		if use, err := b.DB.View().LastUse(t.Context(), "usr_2"); err != nil || !use.Seen.IsZero() || len(use.Acts) != 0 {
			t.Errorf("of who did nothing: got %+v, %v", use, err)
		}
	}},
	{"what a host remembers of the audit log, until it is removed", func(t *testing.T, b *bench) {
		place := b.workspace(t)
		kept, gone := b.newHost(place), b.newHost(place)
		gone.Lifecycle = host.LifecycleRemoved
		w := filled[witness.Stored]()
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for _, h := range []host.Host{kept, gone} {
				if _, err := tx.PutHost(ctx, h); err != nil {
					return err
				}
				w.HostID = h.ID
				if _, err := tx.PutWitness(ctx, w); err != nil {
					return err
				}
			}
			return nil
		})
		var last witness.Stored
		b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
			w.HostID, w.Size = kept.ID, 4711
			last, err = tx.PutWitness(ctx, w)
			return err
		})
		got, err := b.DB.View().Witnesses(t.Context())
		if diff := cmp.Diff([]witness.Stored{last}, got); err != nil || diff != "" || last.Revision == 0 {
			t.Errorf("%v (-stored +read):\n%s", err, diff)
		}
	}},
	{"audit entry", func(t *testing.T, b *bench) {
		given := filled[audit.Entry]()
		given.RequestID = given.Actor.RequestID
		// What allowed the act is its Decision.
		given.Actor = access.Actor{Kind: given.Actor.Kind, ID: given.Actor.ID, Name: given.Actor.Name, Address: given.Actor.Address, RequestID: given.Actor.RequestID,
			Principal: given.Actor.Principal, Method: given.Actor.Method, MFA: given.Actor.MFA}
		for _, e := range []audit.Entry{given, {}} {
			if err := b.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.Audit(t.Context(), e) }); err != nil {
				t.Fatal(err)
			}
		}
		got, err := b.DB.View().Entries(t.Context(), audit.Query{Readable: everything, After: -1})
		if err != nil || len(got) != 2 {
			t.Fatalf("got %d entries, %v; wanted 2", len(got), err)
		}
		given.Position, given.At = 1, b.now()
		empty := audit.Entry{Position: 2, At: b.now(), ID: got[1].ID, Outcome: audit.Done}
		if diff := cmp.Diff([]audit.Entry{given, empty}, got, prefixes, cmpopts.IgnoreUnexported(access.Actor{})); diff != "" || empty.ID == "" {
			t.Errorf("(-stored +read):\n%s", diff)
		}
	}},
	{"deployment", func(t *testing.T, b *bench) {
		if _, err := b.DB.View().Deployment(t.Context()); fault.KindOf(err) != fault.NotFound {
			t.Errorf("before the first start: got %v; wanted NotFound", err)
		}
		for range 2 {
			d := filled[tenant.Deployment]()
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.PutDeployment(ctx, d) })
			got, err := b.DB.View().Deployment(t.Context())
			if diff := cmp.Diff(d, got, prefixes); err != nil || diff != "" {
				t.Errorf("%v (-stored +read):\n%s", err, diff)
			}
		}
	}},
	{"odd text from hosts", func(t *testing.T, b *bench) {
		h := b.newHost(b.workspace(t))
		h.Address, h.StateReason, h.Inventory.OSName = "a\x00b", "\xff\xfe", "a\x00\xffb"
		h = b.putHost(t, h)
		got, err := b.DB.View().Host(t.Context(), h.ID)
		if err != nil || got.Address != "a\uFFFDb" || got.StateReason == h.StateReason || got.StateReason == "" {
			t.Errorf("got address %q and reason %q, %v; wanted replacement characters", got.Address, got.StateReason, err)
		}
	}},
	{"a scope is kept whole", func(t *testing.T, b *bench) {
		want := access.Scope{Organisation: "o", Project: "p", Workspace: "w"}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			_, err := tx.PutKey(ctx, apikey.Key{Meta: tenant.Meta{ID: "key_1"}, Scope: want})
			return err
		})
		list, err := b.DB.Changes(t.Context(), 0, 10)
		if err != nil || len(list) != 1 || list[0].Scope != want {
			t.Errorf("got %+v, %v; wanted one change at %+v", list, err, want)
		}
	}},
}
