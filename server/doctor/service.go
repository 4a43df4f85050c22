package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/server/storage"
)

// keyTakenUp is how long a control plane may take for that: seconds do.
const keyTakenUp = 5 * time.Minute

// keys looks at what cannot be made again.
func (x *examination) keys() {
	dir := filepath.Join(x.Settings.DataDir, "keys")
	if _, err := os.Stat(filepath.Join(dir, "keyset.json")); os.IsNotExist(err) {
		x.found(Warning, "keys", "keys_missing", "the first start makes them; where they were there before, restore a backup: loopbackd restore", "there are none in %s", dir)
		return
	}
	for _, name := range []string{"pepper", "link.key", "audit.key"} {
		st, err := os.Stat(filepath.Join(dir, name))
		switch {
		case err != nil:
			x.found(Failed, "keys", "keys_missing", "restore it from a backup: loopbackd restore", "%s cannot be used: %s", name, err)
			return
		case st.Mode().Perm()&0o077 != 0:
			x.found(Failed, "keys", "keys_open", "chmod 600 "+filepath.Join(dir, "*"), "%s has the mode %o: others may read it", filepath.Join(dir, name), st.Mode().Perm())
			return
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "audit.next.key")); err == nil && x.Now().Sub(st.ModTime()) > keyTakenUp {
		x.found(Warning, "keys", "audit_key_waits", "run loopbackd rotate-log-key where the replica that signs the log runs (loopback replica list, LEASES), or remove the file",
			"a key of the audit log lies ready since %s, and nobody took it up", st.ModTime().UTC().Format(time.RFC3339))
		return
	}
	if _, err := os.Stat(filepath.Join(dir, "anchor.key")); err == nil {
		x.ok("keys", "whole; the anchor key is on this machine")
		return
	}
	x.ok("keys", "whole; the anchor key is kept elsewhere")
}

func (x *examination) database(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	seen, err := storage.Examine(ctx, x.Settings.Database)
	x.shared = seen
	switch {
	case fault.KindOf(err) == fault.NotFound:
		f := fault.Of(err)
		x.found(Warning, "database", f.Code, f.Hint, "%s", f.Message)
	case err != nil:
		x.failed("database", err)
	case seen.Standby:
		x.found(Failed, "database", "database_read_only", "let the URL name the primary, or several hosts with target_session_attrs=read-write", "%s is a standby: it takes no writes", x.Settings.RedactedDatabase())
	case seen.Schema < seen.Newest && x.running:
		x.found(Warning, "database", "schema_old", "restart loopbackd with this version: the start brings it up to date", "its schema is version %d; this program knows %d", seen.Schema, seen.Newest)
	case seen.Schema < seen.Newest:
		x.ok("database", "%s answers in %s; its schema is version %d, the next start brings it to %d", x.Settings.RedactedDatabase(), seen.Read.Round(10*time.Microsecond), seen.Schema, seen.Newest)
	default:
		x.ok("database", "%s answers in %s, schema %d", x.Settings.RedactedDatabase(), seen.Read.Round(10*time.Microsecond), seen.Schema)
	}
}

func (x *examination) certificate() {
	name := x.Settings.TLSCertificate
	if name == "" {
		name = filepath.Join(x.Settings.DataDir, "keys", "ca.crt")
	}
	b, err := os.ReadFile(name)
	if os.IsNotExist(err) && x.Settings.TLSCertificate == "" {
		x.skip("certificate", "the local CA is made by the first start")
		return
	}
	block, _ := pem.Decode(b)
	if err != nil || block == nil {
		x.found(Failed, "certificate", "tls_certificate_invalid", "give a PEM file with --tls-certificate", "%s holds no certificate (%v)", name, err)
		return
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		x.found(Failed, "certificate", "tls_certificate_invalid", "give a PEM file with --tls-certificate", "%s: %s", name, err)
		return
	}
	until := c.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case x.now.Before(c.NotBefore):
		x.found(Failed, "certificate", "tls_certificate_early", "check the clock, now and when it was made", "%s is valid from %s only", name, c.NotBefore.UTC().Format(time.RFC3339))
	case x.now.After(c.NotAfter):
		x.found(Failed, "certificate", "tls_certificate_expired", "renew it; if it is valid, check the clock", "%s was valid until %s", name, until)
	case c.NotAfter.Sub(x.now) < certificate:
		x.found(Warning, "certificate", "tls_certificate_expiring", "renew it", "%s is valid until %s", name, until)
	default:
		x.ok("certificate", "%s is valid until %s", name, until)
	}
}

// passkeys looks whether people can have some where they open the console.
func (x *examination) passkeys() {
	domain := passkey.Domain(x.Settings.PublicURL)
	switch {
	case domain == "":
		x.found(Warning, "passkeys", "passkeys_unavailable", "give it a name that people reach it by: --public-url https://NAME, with a certificate that browsers trust",
			"the public URL %s is no domain name: browsers have no passkeys for it", x.Settings.PublicURL)
	case x.Settings.TLSCertificate == "":
		x.ok("passkeys", "good for %s; browsers have them only where they trust %s", domain, filepath.Join(x.Settings.DataDir, "keys", "ca.crt"))
	default:
		x.ok("passkeys", "good for %s", domain)
	}
}

// ports asks a control plane that runs, and tries to listen for one that does not.
func (x *examination) ports(ctx context.Context) {
	if x.running {
		x.ready(ctx)
		return
	}
	addresses := []string{x.Settings.Listen}
	if x.Settings.MetricsListen != "off" {
		addresses = append(addresses, x.Settings.MetricsListen)
	}
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			x.found(Failed, "ports", "listen_failed", "another program may hold it: ss -ltnp; or choose another address", "%s", err)
			return
		}
		_ = l.Close()
	}
	x.ok("ports", "%s can be listened on", strings.Join(addresses, " and "))
}

func (x *examination) ready(ctx context.Context) {
	host, port, err := net.SplitHostPort(x.Settings.Listen)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	// Whether hosts trust the certificate is another check; this one asks whether anybody answers.
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	url := "https://" + net.JoinHostPort(host, port) + "/readyz"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		x.skip("ports", "%s", err)
		return
	}
	res, err := client.Do(r)
	if err != nil {
		x.found(Failed, "ports", "not_answering", "is --listen what loopbackd serve was given? Otherwise look at its log", "a control plane runs on this data folder and %s does not answer: %s", url, err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		x.found(Failed, "ports", "not_ready", "see the database above, and the log", "%s says %s", url, res.Status)
		return
	}
	x.ok("ports", "%s says ready", url)
}

// releases reads when signed metadata ends, in the folder or, where replicas share it, in the database. Whether it is
// signed rightly is for hosts to say.
func (x *examination) releases() {
	if x.shared.Lost > 0 {
		x.found(Failed, "releases", "release_files_lost", "restore the database from its backup, or publish those releases again", "%d files of releases have no content in the database", x.shared.Lost)
		return
	}
	files := x.shared.Metadata
	if len(files) == 0 {
		files = map[string][]byte{}
		folder := filepath.Join(x.Settings.DataDir, "releases", "metadata")
		entries, _ := os.ReadDir(folder) // none there: nothing published
		for _, e := range entries {
			if b, err := os.ReadFile(filepath.Join(folder, e.Name())); err == nil {
				files[e.Name()] = b
			}
		}
	}
	expires := func(name string) (t time.Time, ok bool) {
		var file struct {
			Signed struct {
				Expires time.Time `json:"expires"`
			} `json:"signed"`
		}
		b, ok := files[name]
		return file.Signed.Expires, ok && json.Unmarshal(b, &file) == nil
	}
	newest := func(role string) (name string) {
		var most int64 = -1
		for file := range files {
			if digits, ok := strings.CutSuffix(file, "."+role+".json"); ok {
				if v, err := strconv.ParseInt(digits, 10, 64); err == nil && v > most {
					most, name = v, file
				}
			}
		}
		return name
	}
	stamp, ok := expires("timestamp.json")
	if !ok {
		x.skip("releases", "none is published")
		return
	}
	if x.now.After(stamp.Add(-timestampEnd)) {
		x.found(Warning, "releases", "release_metadata_expiring", "loopbackd signs it again by itself while it runs: see its log", "the timestamp ends at %s", stamp.Format(time.RFC3339))
		return
	}
	for _, role := range []string{"targets", "root"} {
		end, ok := expires(newest(role))
		if ok && x.now.After(end.Add(-certificate)) {
			x.found(Warning, "releases", "release_metadata_expiring", "publish again with the keys that are held outside: loopback release publish", "the %s ends at %s", role, end.Format(time.RFC3339))
			return
		}
	}
	x.ok("releases", "the metadata is fresh until %s", stamp.Format(time.RFC3339))
}
