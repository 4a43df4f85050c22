package main

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/keys"
)

func rotateLogKeyCommand(out, errs io.Writer) *cobra.Command {
	var s config.Settings
	c := &cobra.Command{Use: "rotate-log-key", Short: "Have the audit log signed by another key from now on", Args: cobra.NoArgs,
		Long: `Have the audit log signed by another key from now on. It lays the key ready among the keys; the running control plane announces it in the
log, signs a checkpoint with both keys, and deletes the old one, within seconds. Run it on the machine whose replica signs the log
("audit log" under LEASES of loopback replica list, or the only one), with the settings of serve. Other replicas then need the file audit.key copied to
theirs. Whoever trusts the old key follows by the signatures of both; the new one is printed, to be compared.` + environment}
	s.Register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.Load(c.Flags(), os.Getenv); err != nil {
			return err
		}
		dir := filepath.Join(s.DataDir, "keys")
		if _, err := os.Stat(filepath.Join(dir, "audit.key")); err != nil {
			return fault.New(fault.Precondition, "not_started", "there is no key of an audit log in %s", dir).WithCause(err).
				WithHint("run this with the settings of serve, on a machine where it has run")
		}
		k, err := keys.Open(dir, time.Now())
		if err != nil {
			return err
		}
		next, err := k.StageAuditKey()
		if err != nil {
			return err
		}
		name := ledger.KeyName(k.Keyset.Deployment)
		fmt.Fprintln(out, ledger.Key{Name: name, Public: next.Public().(ed25519.PublicKey)})
		_, err = fmt.Fprintln(errs, "the key lies ready: the running control plane takes it up within seconds. Afterwards: loopback audit checkpoint")
		return err
	}
	return c
}
