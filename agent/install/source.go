package install

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/loopbackd/loopback/fault"
)

// source is where the release metadata comes from. What it is worth does not depend on that, what to do about it does.
type source int

const (
	controlPlane source = iota
	aMirror
	aBundle
)

func (s source) String() string {
	return [...]string{"the control plane", "the mirror", "the bundle"}[s]
}

func (r *run) source() source {
	switch {
	case r.Bundle != "":
		return aBundle
	case r.config.Mirror != "":
		return aMirror
	}
	return controlPlane
}

// fetcher is what gets the metadata, and the address that it is below.
func (r *run) fetcher(ctx context.Context) (base string, f *fetcher, err error) {
	f = &fetcher{ctx: ctx, from: r.source(), client: r.client, clock: r.clock, detail: r.detail}
	switch f.from {
	case aBundle:
		f.folder = filepath.Join(r.Bundle, "metadata")
		return "file:///bundle/metadata", f, nil // only the names count
	case aMirror:
		f.client, err = r.mirrorClient()
		return r.config.Mirror + "/metadata", f, err
	}
	if r.endpoint() == "" {
		return "", nil, errNoEndpoint
	}
	return strings.TrimSuffix(r.endpoint(), "/") + "/dl/metadata", f, nil
}

// mirrorClient reaches a mirror as the control plane is reached. Its certificate may be one that the system trusts, or one
// of the control plane's CA; it only keeps the curious out, since the metadata is signed.
func (r *run) mirrorClient() (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if path := r.caFile(); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, errCAFile.WithCause(err)
		}
		pool.AppendCertsFromPEM(pem)
	}
	outer := &tls.Config{MinVersion: tls.VersionTLS12, Time: r.clock, RootCAs: pool}
	transport := &http.Transport{MaxResponseHeaderBytes: 64 << 10}
	transport.DialTLSContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := r.open(r.config, outer, "https://"+address)(ctx) // by a proxy, where there is one
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	if r.proxy != nil {
		if by := r.proxy(r.config); by != nil {
			transport.Proxy = func(q *http.Request) (*url.URL, error) {
				if q.URL.Scheme == "https" {
					return nil, nil
				}
				return by(q)
			}
		}
	}
	return &http.Client{Transport: transport}, nil
}

// read takes a file of a bundle. A root that is not there is the end of their chain; another file that is not, is missed.
func (f *fetcher) read(name string, limit int64) ([]byte, error) {
	file, err := os.Open(filepath.Join(f.folder, name))
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, ".root.json"):
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.Precondition, "bundle_incomplete", "the bundle lacks metadata/%s", name).
			WithHint("is %s the folder that was unpacked? copy it whole, or make it anew: loopback release bundle", filepath.Dir(f.folder)).WithCause(err)
	case err != nil:
		return nil, problem("read the bundle", err)
	}
	defer file.Close()
	f.detail("reading %s", file.Name())
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, problem("read the bundle", err)
	}
	if int64(len(b)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is longer than %d bytes", name, limit)}
	}
	return b, nil
}

// advice is what to do about an error, by its code, where the control plane is not to be asked.
var advice = map[source]map[string]string{
	aMirror: {
		"release_unverified":       "the mirror is another control plane's, or was altered; copy it again: loopback release mirror; nothing was changed",
		"release_oversized":        "the mirror was altered; copy it again: loopback release mirror",
		"release_metadata_expired": "copy the mirror again (loopback release mirror), at least every few days; or this host's clock is wrong",
		"release_rollback":         "the mirror is older than what this host has seen; copy it again: loopback release mirror",
		"release_not_found":        "give the address above metadata and targets, as loopback release mirror writes them",
		"release_unknown":          "the mirror does not have this version yet; copy it again: loopback release mirror",
	},
	aBundle: {
		"release_unverified":       "the bundle was altered, or is another control plane's; make it anew: loopback release bundle; nothing was changed",
		"release_oversized":        "the bundle was altered; make it anew: loopback release bundle",
		"release_metadata_expired": "the bundle is too old; make a new one: loopback release bundle; or this host's clock is wrong",
		"release_rollback":         "this host has seen newer releases than the bundle has; make a new one: loopback release bundle",
		"release_unknown":          "the program is not the bundle's; make it anew: loopback release bundle",
	},
}

// advise gives an error the hint that helps with this source.
func (s source) advise(err error) error {
	known := fault.Of(err)
	if hint, ok := advice[s][known.Code]; ok {
		out := *known
		out.Hint = hint
		if known.Code == "release_not_found" {
			out.Message = s.String() + " serves no release metadata"
		}
		return &out
	}
	return err
}
