package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/keys"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/trust"
)

func inviteCommand(out, errs io.Writer) *cobra.Command {
	var s config.Settings
	var to, name, anchor, request string
	c := &cobra.Command{Use: "invite --to FILE", Short: "Make what a further replica of the control plane starts with", Args: cobra.NoArgs,
		Long: `Make what a further replica of the control plane starts with: a sealed file, and the code that opens it. Run it with the
settings of serve, on the machine that has the anchor key, while the control plane runs. Carry file and code to the new
machine by two ways, and run there: loopbackd join --from FILE. An invitation is for one machine and ends after a day.

The new replica is listed in the deployment's keyset at once, and the running ones take that up within seconds.

Where the anchor key is kept off all machines of the control plane, --request writes what it has to sign: sign that where the key
is (loopbackd keyset sign), bring back what comes of it (loopbackd keyset import), and join with --keyset.` + environment}
	s.Register(c.Flags())
	c.Flags().StringVar(&to, "to", "", "`FILE` to write; it must not exist")
	c.Flags().StringVar(&name, "name", "", "`NAME` of the new replica (default: the next of replica-2, replica-3…)")
	c.Flags().StringVar(&anchor, "anchor", "", "`FILE` of the anchor key, where it was moved off this machine (default: anchor.key in the data folder)")
	c.Flags().StringVar(&request, "request", "", "`FILE` to write what is to be signed elsewhere, instead of signing here")
	_ = c.MarkFlagRequired("to")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "to", "name", "anchor", "request"); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fault.New(fault.Invalid, "file_unusable", "%s cannot be made", to).WithCause(err).WithHint("name a file that does not exist yet, in a folder that can be written")
		}
		defer f.Close()
		var made keys.Invitation
		err = withKeys(c.Context(), s, func(k *keys.Keys, db *storage.DB) error {
			rows, err := db.View().Replicas(c.Context())
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				return fault.New(fault.Precondition, "cluster_off", "this control plane does not expect other replicas yet").
					WithHint("start it with --cluster-listen first, or with --bus; see docs/guides/operate.md")
			}
			if request != "" {
				invitation, r, err := k.RequestInvite(name, time.Now())
				if err != nil {
					return err
				}
				made = invitation
				return writeNew(request, r)
			}
			invitation, signed, err := k.Invite(name, anchor, time.Now())
			if err != nil {
				return err
			}
			made = invitation
			return publish(c.Context(), db, signed, replica.Invite, made.Name)
		})
		if err != nil {
			_ = os.Remove(to) // it is empty
			return err
		}
		sealed, code, err := made.Seal()
		if err != nil {
			return err
		}
		if _, err := f.Write(sealed); err != nil {
			return fmt.Errorf("write the invitation: %w", err)
		}
		fmt.Fprintf(errs, "wrote %s for %s. It ends at %s.\n", to, made.Name, made.Expires.Format(time.RFC3339))
		if request != "" {
			fmt.Fprintf(errs, "where the anchor key is: loopbackd keyset sign --request %s --anchor FILE --to SIGNED\nhere: loopbackd keyset import --from SIGNED\non the new machine: loopbackd join --from FILE --keyset SIGNED, then loopbackd serve with --database and --cluster-listen\n", request)
		} else {
			fmt.Fprintln(errs, "on the new machine: loopbackd join --from FILE, then loopbackd serve with --database and --cluster-listen")
		}
		_, err = fmt.Fprintf(out, "code: %s\n", code)
		return err
	}
	return c
}

func joinCommand(in io.Reader, errs io.Writer) *cobra.Command {
	var s config.Settings
	var from, keyset string
	c := &cobra.Command{Use: "join --from FILE", Short: "Make this machine a further replica, by an invitation", Args: cobra.NoArgs,
		Long: `Make this machine a further replica of a control plane. It asks for the code that loopbackd invite printed; where it is
not run by hand, the code is read from standard input. Only keys are put in place: nothing is started.`}
	s.Register(c.Flags())
	c.Flags().StringVar(&from, "from", "", "`FILE` that loopbackd invite wrote")
	c.Flags().StringVar(&keyset, "keyset", "", "`FILE` that loopbackd keyset sign wrote, where the invitation came without its keyset")
	_ = c.MarkFlagRequired("from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "from", "keyset"); err != nil {
			return err
		}
		sealed, err := os.ReadFile(from)
		if err != nil {
			return fault.New(fault.Invalid, "file_unusable", "%s cannot be read", from).WithCause(err)
		}
		fmt.Fprint(errs, "code: ")
		code, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
		if err != nil && code == "" {
			return fault.New(fault.Invalid, "code_missing", "there is no code").WithHint("type what loopbackd invite printed, or pipe it in")
		}
		i, err := keys.Unseal(sealed, code)
		if err != nil {
			return err
		}
		if keyset != "" {
			signed, err := readSigned(keyset)
			if err != nil {
				return err
			}
			if err := i.Complete(signed); err != nil {
				return err
			}
		}
		unlock, err := lock(s.DataDir)
		if err != nil {
			return err
		}
		defer unlock()
		if err := keys.Join(filepath.Join(s.DataDir, "keys"), i, time.Now()); err != nil {
			return err
		}
		fmt.Fprintf(errs, "this machine is %s now. Remove %s, and start it: loopbackd serve --database postgres://… --cluster-listen ADDRESS\n", i.Name, from)
		return nil
	}
	return c
}

func evictCommand(errs io.Writer) *cobra.Command {
	var s config.Settings
	var anchor, request string
	c := &cobra.Command{Use: "evict REPLICA", Short: "Take a replica out of the control plane for good", Args: cobra.ExactArgs(1),
		Long: `Take a replica out of the control plane for good. Run it with the settings of serve, on the machine that has the anchor
key. The replica is dropped from the keyset: the others let it in no more, agents that have seen the new keyset refuse it,
and it stops by itself when it can read the database.

It knew what all replicas share. Where the machine was not retired but fell into other hands, change that as well: see
docs/guides/operate.md.` + environment}
	s.Register(c.Flags())
	c.Flags().StringVar(&anchor, "anchor", "", "`FILE` of the anchor key, where it was moved off this machine (default: anchor.key in the data folder)")
	c.Flags().StringVar(&request, "request", "", "`FILE` to write what is to be signed elsewhere, instead of signing here")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "anchor", "request"); err != nil {
			return err
		}
		if request != "" {
			err := withKeys(c.Context(), s, func(k *keys.Keys, _ *storage.DB) error {
				r, err := k.RequestEvict(args[0])
				if err != nil {
					return err
				}
				return writeNew(request, r)
			})
			if err == nil {
				fmt.Fprintf(errs, "wrote %s. Nothing is changed yet.\nwhere the anchor key is: loopbackd keyset sign --request %s --anchor FILE --to SIGNED\nhere: loopbackd keyset import --from SIGNED\n", request, request)
			}
			return err
		}
		err := withKeys(c.Context(), s, func(k *keys.Keys, db *storage.DB) error {
			signed, err := k.Evict(args[0], anchor, time.Now())
			if err != nil {
				return err
			}
			return publish(c.Context(), db, signed, replica.Evict, args[0])
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(errs, "%s is evicted; the other replicas take that up within seconds\n", args[0])
		return nil
	}
	return c
}

// withKeys opens what replicas share, with the newest keyset taken up.
func withKeys(ctx context.Context, s config.Settings, do func(*keys.Keys, *storage.DB) error) error {
	if !strings.Contains(s.Database, "://") {
		return fault.New(fault.Invalid, "database_not_shared", "several replicas share a PostgreSQL database; this one is a file").
			WithHint("name it with --database postgres://USER@HOST/DATABASE")
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "keys", "keyset.json")); err != nil {
		return fault.New(fault.Precondition, "not_started", "there are no keys in %s", s.DataDir).WithCause(err).
			WithHint("run this with the settings of serve, on a machine where it has run")
	}
	k, err := keys.Open(filepath.Join(s.DataDir, "keys"), time.Now())
	if err != nil {
		return err
	}
	db, err := storage.Open(ctx, storage.Options{URL: s.Database})
	if err != nil {
		return err
	}
	defer db.Close()
	published, found, err := db.View().Keyset(ctx)
	if err != nil {
		return err
	}
	if found {
		if _, err := k.Adopt(published); err != nil {
			return err
		}
	}
	return do(k, db)
}

// publish gives the running replicas a keyset, with its audit entry.
func publish(ctx context.Context, db *storage.DB, signed trust.Signed, p access.Permission, name string) error {
	return db.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.PutKeyset(ctx, signed); err != nil {
			return err
		}
		if p == replica.Evict {
			if err := tx.DeleteReplica(ctx, name); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Of(access.Actor{Kind: access.System, Name: "loopbackd " + strings.TrimPrefix(string(p), "replicas.")}, p, access.Scope{}, name, name))
	})
}
