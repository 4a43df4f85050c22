package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/keys"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/trust"
)

func keysetCommand(out, errs io.Writer) *cobra.Command {
	c := &cobra.Command{Use: "keyset", Short: "Sign the deployment's keyset where the anchor key is kept, and bring it back", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(keysetSignCommand(out, errs), keysetImportCommand(errs))
	return c
}

func keysetSignCommand(out, errs io.Writer) *cobra.Command {
	var request, anchor, to string
	c := &cobra.Command{Use: "sign --request FILE --anchor FILE --to FILE", Short: "Sign what invite or evict asked for, on a machine without network or database", Args: cobra.NoArgs,
		Long: `Sign what loopbackd invite --request or evict --request asked for. It needs the anchor key and nothing else: no network, no
database, no data folder. It prints what the signature changes; what a request does beyond what it says is refused.`}
	f := c.Flags()
	f.StringVar(&request, "request", "", "`FILE` that invite or evict wrote")
	f.StringVar(&anchor, "anchor", "", "`FILE` of the anchor key")
	f.StringVar(&to, "to", "", "`FILE` to write; it must not exist")
	for _, name := range []string{"request", "anchor", "to"} {
		_ = c.MarkFlagRequired(name)
	}
	c.RunE = func(*cobra.Command, []string) error {
		b, err := os.ReadFile(request)
		if err != nil {
			return fault.New(fault.Invalid, "file_unusable", "%s cannot be read", request).WithCause(err)
		}
		r, err := keys.ReadRequest(b)
		if err != nil {
			return err
		}
		signed, d, err := r.Sign(anchor, time.Now())
		if err != nil {
			return err
		}
		if err := writeNew(to, signed); err != nil {
			return err
		}
		fmt.Fprintf(out, "deployment %s, keyset %d after %d\n", d.Deployment, d.To, d.From)
		for what, names := range map[string][]string{"lists": d.Added, "drops": d.Removed} {
			if len(names) > 0 {
				fmt.Fprintf(out, "%s %s\n", what, strings.Join(names, ", "))
			}
		}
		_, err = fmt.Fprintf(errs, "wrote %s: loopbackd keyset import --from FILE, on a machine of the control plane\n", to)
		return err
	}
	return c
}

func keysetImportCommand(errs io.Writer) *cobra.Command {
	var s config.Settings
	var from string
	c := &cobra.Command{Use: "import --from FILE", Short: "Publish a keyset that was signed elsewhere", Args: cobra.NoArgs,
		Long: `Publish a keyset that loopbackd keyset sign wrote. Run it with the settings of serve, on any machine of the control plane.
The running replicas take it up within seconds; one that it does not list any more stops.` + environment}
	s.Register(c.Flags())
	c.Flags().StringVar(&from, "from", "", "`FILE` that loopbackd keyset sign wrote")
	_ = c.MarkFlagRequired("from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "from"); err != nil {
			return err
		}
		signed, err := readSigned(from)
		if err != nil {
			return err
		}
		var said []string
		err = withKeys(c.Context(), s, func(k *keys.Keys, db *storage.DB) error {
			set, err := signed.Verify(trust.HashAnchor(k.Anchor), 0)
			if err != nil {
				return fault.New(fault.Unauthenticated, "keyset_invalid", "the keyset is not signed by this deployment's anchor key").WithCause(err)
			}
			now, _ := k.Current()
			if set.Deployment != now.Deployment || set.Version <= now.Version {
				return fault.New(fault.Conflict, "keyset_stale", "keyset %d is here already; the file has %d", now.Version, set.Version).
					WithHint("it was imported before, or another one meanwhile: make a new request then")
			}
			permission, name := replica.Invite, ""
			for _, r := range set.Replicas {
				if _, ok := now.Replica(r.Name); !ok {
					name = r.Name // the last that is new: the first may list itself
					said = append(said, r.Name+" is listed")
				}
			}
			for _, r := range now.Replicas {
				if _, ok := set.Replica(r.Name); !ok {
					permission, name = replica.Evict, r.Name
					said = append(said, r.Name+" is evicted")
				}
			}
			return publish(c.Context(), db, signed, permission, name)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(errs, "%s; the replicas take that up within seconds\n", strings.Join(said, ", "))
		return nil
	}
	return c
}

func readSigned(file string) (trust.Signed, error) {
	var signed trust.Signed
	b, err := os.ReadFile(file)
	if err != nil {
		return signed, fault.New(fault.Invalid, "file_unusable", "%s cannot be read", file).WithCause(err)
	}
	if err := json.Unmarshal(b, &signed); err != nil || len(signed.Payload) == 0 {
		return signed, fault.New(fault.Invalid, "keyset_invalid", "%s is no signed keyset", file).WithCause(err).WithHint("take what loopbackd keyset sign wrote")
	}
	return signed, nil
}

// writeNew writes something as JSON into a file that is not there yet.
func writeNew(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.New(fault.Invalid, "file_unusable", "%s cannot be made", name).WithCause(err).WithHint("name a file that does not exist yet, in a folder that can be written")
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}
