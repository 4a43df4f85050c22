package install

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

// ErrHelp says that help was asked for, and given.
var ErrHelp = flag.ErrHelp

const (
	defaultWait     = time.Minute
	defaultLockWait = 5 * time.Minute
)

const usage = `Usage: loopback-agent install [OPTION]...

Installs this program as the host's agent, enrols the host and waits until it is managed. Run again, it changes only
what has to change. The token is read from LOOPBACK_TOKEN, from --token-file or from standard input.

Where to
  --endpoint URL        the control plane: https://HOST:PORT
  --anchor HEX          whom to trust; the token says it, too
  --ca-file FILE        PEM that the endpoint's certificate is checked by
  --proxy URL           reach the control plane by this proxy; none: directly
  --proxy-file FILE     read the proxy's URL, with its password, from FILE (mode 0600)
What
  --mirror URL          fetch releases from a copy of them, now and later; none: from the control plane
  --bundle FOLDER       verify by the release metadata in an unpacked bundle
  --trust-root FILE     root of the release metadata
  --version VERSION     refuse to be any other version
  --channel NAME        refuse to be from another channel: stable or preview
  --allow-downgrade     replace a newer version
As whom
  --token-file FILE     read the token from FILE; - is standard input
  --name NAME           the host's name, instead of its own
  --labels K=V,...      labels of the host
What the control plane may do here; nothing by default, and an earlier choice is kept
  --allow-exec, --allow-shell, --allow-files, --allow-power[=true|false]
How
  --dry-run             check everything, change nothing
  --verbose             say what is done, and let the agent log what its link does
  --wait DURATION       for the host to be managed (1m); 0: do not wait
  --lock-wait DURATION  for another installation to end (5m)
  -o FORMAT             table, or json: what it came to as one object on standard output, the steps on standard error
`

const packageUsage = `Usage: loopback-agent install --packaged --version VERSION

What the scripts of a package call once it is unpacked: puts the program in place, without enrolling.

  --version VERSION     of the package
  --lock-wait DURATION  for another installation to end (5m)
`

const uninstallUsage = `Usage: loopback-agent uninstall [OPTION]...

Stops the agent and removes all that install made. The identity and the settings stay unless --purge is given.

  --purge               remove the identity and the settings as well
  --packaged            what the scripts of a package call before its files go
  --dry-run             say what would be removed
  --lock-wait DURATION  for an installation to end (5m)
`

var errTokenArgument = fault.New(fault.Invalid, "token_exposed", "a token on the command line can be read by everybody on this host").
	WithHint("revoke that one; give a new one in LOOPBACK_TOKEN, with --token-file FILE or on standard input")

// ParseOptions reads the arguments of `loopback-agent install`.
func ParseOptions(args []string, stdin io.Reader, help io.Writer) (Options, error) {
	o := Options{Stdin: stdin}
	var anchor, labels string
	f := flags(help, usage)
	f.StringVar(&o.Endpoint, "endpoint", "", "")
	f.StringVar(&anchor, "anchor", "", "")
	f.StringVar(&o.CAFile, "ca-file", "", "")
	f.StringVar(&o.Proxy, "proxy", "", "")
	f.StringVar(&o.Mirror, "mirror", "", "")
	f.StringVar(&o.Bundle, "bundle", "", "")
	f.StringVar(&o.ProxyFile, "proxy-file", "", "")
	f.StringVar(&o.Output, "o", "table", "")
	f.StringVar(&o.TrustRoot, "trust-root", "", "")
	f.StringVar(&o.Version, "version", "", "")
	f.StringVar(&o.Channel, "channel", "", "")
	f.BoolVar(&o.AllowDowngrade, "allow-downgrade", false, "")
	f.StringVar(&o.TokenFile, "token-file", "", "")
	f.StringVar(&o.Name, "name", "", "")
	f.StringVar(&labels, "labels", "", "")
	f.BoolVar(&o.DryRun, "dry-run", false, "")
	f.BoolVar(&o.Verbose, "verbose", false, "")
	f.DurationVar(&o.Wait, "wait", defaultWait, "")
	f.DurationVar(&o.LockWait, "lock-wait", defaultLockWait, "")
	for name, to := range map[string]**bool{"allow-exec": &o.Allow.Exec, "allow-shell": &o.Allow.Shell, "allow-files": &o.Allow.Files, "allow-power": &o.Allow.Power} {
		f.BoolFunc(name, "", func(s string) error {
			b, err := strconv.ParseBool(s)
			*to = &b
			return err
		})
	}
	if err := parse(f, args); err != nil {
		return Options{}, err
	}
	if hasPassword(o.Proxy) {
		return Options{}, errProxyArgument
	}
	var c fault.Check
	if anchor != "" {
		var ok bool
		o.Anchor, ok = parseAnchor(anchor)
		c.That(ok, "--anchor", "is not %d hexadecimal digits", 2*len(o.Anchor))
	}
	c.That(o.Version == "" || release.ValidVersion(o.Version), "--version", "is not a version like 1.2.3")
	c.That(o.Channel == "" || o.Channel == release.Stable || o.Channel == release.Preview, "--channel", "is neither stable nor preview")
	c.That(o.Output == "table" || o.Output == "json", "-o", "is neither table nor json")
	c.That(o.Proxy == "" || o.ProxyFile == "", "--proxy-file", "and --proxy are given")
	c.That(o.Wait >= 0, "--wait", "is negative")
	c.That(o.LockWait >= 0, "--lock-wait", "is negative")
	o.Labels = parseLabels(&c, labels)
	return o, c.Err("usage", "the command line is not valid")
}

// ParsePackageOptions reads the arguments of `loopback-agent install --packaged`; other says that they are those of
// another installation.
func ParsePackageOptions(args []string, help io.Writer) (o PackageOptions, other bool, err error) {
	if len(args) == 0 || args[0] != "--packaged" {
		return PackageOptions{}, true, nil
	}
	f := flags(help, packageUsage)
	f.StringVar(&o.Version, "version", "", "")
	f.DurationVar(&o.LockWait, "lock-wait", defaultLockWait, "")
	if err := parse(f, args[1:]); err != nil {
		return PackageOptions{}, false, err
	}
	var c fault.Check
	c.That(release.ValidVersion(o.Version), "--version", "is not a version like 1.2.3")
	return o, false, c.Err("usage", "the command line is not valid")
}

// ParseUninstallOptions reads the arguments of `loopback-agent uninstall`.
func ParseUninstallOptions(args []string, help io.Writer) (UninstallOptions, error) {
	var o UninstallOptions
	f := flags(help, uninstallUsage)
	f.BoolVar(&o.Purge, "purge", false, "")
	f.BoolVar(&o.Packaged, "packaged", false, "")
	f.BoolVar(&o.DryRun, "dry-run", false, "")
	f.DurationVar(&o.LockWait, "lock-wait", defaultLockWait, "")
	return o, parse(f, args)
}

func flags(help io.Writer, usage string) *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() { fmt.Fprint(help, usage) }
	return f
}

// parse refuses a token wherever it stands, before anything repeats it.
func parse(f *flag.FlagSet, args []string) error {
	for _, a := range args {
		name := strings.TrimLeft(a, "-")
		if a != name && (name == "token" || strings.HasPrefix(name, "token=")) || strings.Contains(a, token.Prefix+"_") {
			return errTokenArgument
		}
	}
	help := f.Usage
	f.Usage = func() {}
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help()
		return ErrHelp
	case err != nil:
		return fault.New(fault.Invalid, "usage", "%s", strings.ReplaceAll(err.Error(), "\n", " ")).WithHint("see --help")
	case f.NArg() > 0:
		return fault.New(fault.Invalid, "usage", "%q is not an option", f.Arg(0)).WithHint("see --help")
	}
	return nil
}

func parseAnchor(s string) (trust.AnchorHash, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(trust.AnchorHash{}) {
		return trust.AnchorHash{}, false
	}
	return trust.AnchorHash(b), true
}

func parseLabels(c *fault.Check, s string) label.Set {
	if s == "" {
		return nil
	}
	out := label.Set{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		c.That(ok, "--labels", "has %q, which is not KEY=VALUE", pair)
		_, twice := out[key]
		c.That(!twice, "--labels", "has %q twice", key)
		out[key] = value
	}
	out.Validate(c, "--labels")
	return out
}
