package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/server/config"
)

// A control plane whose clock was a year ahead, or a year behind, and was set right serves certificates that are valid by
// the right clock, is ready, and takes calls: nothing that it made meanwhile stays in the way.
func TestAClockThatWasAYearOffAndIsSetRight(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 365 * 24 * time.Hour, "behind": -365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			var skew atomic.Int64
			start := func() (*Server, string, func()) {
				var set config.Settings
				f := pflag.NewFlagSet("", pflag.ContinueOnError)
				set.Register(f)
				if err := errors.Join(f.Parse([]string{"--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}),
					set.Load(f, func(string) string { return "" })); err != nil {
					t.Fatal(err)
				}
				s, err := New(t.Context(), Options{Settings: set, Logger: slog.New(slog.DiscardHandler),
					Clock: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
				if err != nil {
					t.Fatal(err)
				}
				address, err := s.Listen()
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- s.Run(ctx) }()
				return s, address.String(), func() {
					stop()
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}
			}
			ready := func(s *Server, address string) error {
				roots := x509.NewCertPool()
				roots.AddCert(s.certs.CA())
				now := func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
				c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Time: now}}}
				res, err := c.Get("https://" + address + "/readyz")
				if err != nil {
					return err
				}
				defer res.Body.Close()
				if res.StatusCode != http.StatusOK {
					return errors.New(res.Status)
				}
				return nil
			}
			s, address, stop := start() // made by the right clock
			if err := ready(s, address); err != nil {
				t.Error(err)
			}
			stop()
			skew.Store(int64(off))
			s, address, stop = start()
			if off > 0 {
				if err := ready(s, address); err != nil {
					t.Errorf("while it is off: %v", err)
				}
			}
			skew.Store(0)
			if err := ready(s, address); err != nil {
				t.Errorf("set right while it runs: %v", err)
			}
			stop()
			s, address, stop = start()
			if err := ready(s, address); err != nil {
				t.Errorf("after the next start: %v", err)
			}
			stop()
		})
	}
}
