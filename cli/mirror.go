package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/mirror"
)

func (a *app) releaseMirror() *cobra.Command {
	return &cobra.Command{
		Use: "mirror FOLDER", Short: "Copy all releases to a folder that a file server can serve",
		Long: `Copy all releases to a folder that a file server can serve.

Hosts are pointed at it with --mirror URL of the install script, or mirror in agent.yaml; what they fetch there they verify
as they would at the control plane. Copy again at least every few days, before the signed metadata expires: what is there
already is not fetched again.`,
		Example: "  loopback release mirror /srv/www/loopback",
		Args:    args("FOLDER"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			o, err := a.repository(ctx, s)
			if err != nil {
				return err
			}
			o.Plain = true
			copied, err := mirror.Copy(ctx, w[0], o)
			if err != nil {
				return err
			}
			return a.printCopied(w[0], copied)
		}),
	}
}

func (a *app) releaseBundle() *cobra.Command {
	var version, channel string
	var platforms []string
	c := &cobra.Command{
		Use: "bundle FILE", Short: "Make one file that installs the agent on hosts that fetch nothing",
		Long: `Make one file that installs the agent on hosts that fetch nothing.

The file is a tar archive with the agent, the signed metadata and the install script. On the host:

  tar -xzf FILE
  sh loopback-VERSION/install.sh --token-file TOKEN

The host verifies what is in it as it would at the control plane, which it still has to reach for the link, by itself or by
a proxy. A bundle is good until its metadata expires, which it says.`,
		Example: "  loopback release bundle loopback-1.2.3.tar.gz --version 1.2.3 --platform linux-amd64",
		Args:    args("FILE"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if version != "" && !release.ValidVersion(version) {
				return usage("--version is %q, not a version like 1.2.3", version)
			}
			if channel != "" && channel != release.Stable && channel != release.Preview {
				return usage("--channel is %q; the channels are stable and preview", channel)
			}
			o, err := a.repository(ctx, s)
			if err != nil {
				return err
			}
			o.Pick = func(all []release.Target) ([]release.Target, error) { return pick(all, channel, version, platforms) }
			var copied mirror.Copied
			err = durable.Write(w[0], 0o644, func(to io.Writer) (err error) {
				copied, err = mirror.Bundle(ctx, to, o, func(version string) ([]byte, error) { return s.installScript(ctx, version) })
				return err
			})
			if err != nil {
				return err
			}
			return a.printCopied(w[0], copied)
		}),
	}
	f := c.Flags()
	f.StringVar(&version, "version", "", "`VERSION` of the agent; the newest of the channel where it is not given")
	f.StringVar(&channel, "channel", "", "`CHANNEL`: stable (default) or preview")
	f.StringSliceVar(&platforms, "platform", nil, "only for this `OS-ARCH`, like linux-amd64; may be repeated")
	return c
}

// repository is where releases are copied from, and the root that this account's control plane vouches for.
func (a *app) repository(ctx context.Context, s *api) (mirror.Options, error) {
	m, err := call(ctx, s, s.releases.GetReleaseMetadata, &pb.GetReleaseMetadataRequest{})
	if err != nil {
		return mirror.Options{}, err
	}
	var root []byte
	for version := 1; root == nil && version <= 1000; version++ {
		root = m.Files[fmt.Sprintf("%d.root.json", version)]
	}
	if root == nil {
		return mirror.Options{}, fault.New(fault.NotFound, "release_not_found", "nothing is published yet").
			WithHint("publish the agent first: loopback release publish")
	}
	return mirror.Options{
		URL: s.URL + "/dl", Client: s.http, Root: root,
		Progress: func(path string, length int64) { a.hint("fetching %s (%s)", path, bytesize(length)) },
	}, nil
}

// pick chooses the agent of one version.
func pick(all []release.Target, channel, version string, platforms []string) ([]release.Target, error) {
	found := release.Resolve(all, release.Agent, channel, version)
	if len(found) == 0 {
		return nil, fault.New(fault.NotFound, "release_not_found", "there is no such release of the agent").WithHint("see what there is: loopback release list")
	}
	if len(platforms) == 0 {
		return found, nil
	}
	var out []release.Target
	for _, p := range platforms {
		i := slices.IndexFunc(found, func(t release.Target) bool { return t.OS+"-"+t.Architecture == p })
		if i < 0 {
			return nil, fault.New(fault.NotFound, "release_not_found", "loopback-agent %s is not published for %s", found[0].Version, p).
				WithHint("see what it is published for: loopback release show loopback-agent-%s", found[0].Version)
		}
		out = append(out, found[i])
	}
	return out, nil
}

const maxScript = 4 << 20

// installScript fetches the script that installs a version.
func (c *api) installScript(ctx context.Context, version string) ([]byte, error) {
	ctx, cancel := c.deadline(ctx, false)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/install.sh?version="+url.QueryEscape(version), nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "unreachable", "the install script cannot be fetched: %s", errors.Unwrap(err)).WithCause(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxScript))
	if err != nil || answer.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), "#!/bin/sh\n") {
		return nil, fault.New(fault.Unavailable, "http_status", "the control plane does not serve the install script: %s", answer.Status).WithCause(err)
	}
	return text, nil
}

func (a *app) printCopied(to string, c mirror.Copied) error {
	if info, err := os.Stat(to); err == nil && !info.IsDir() {
		a.hint("%s has %s", to, bytesize(info.Size()))
	}
	a.hint("%d of %d files were fetched; hosts install from this until %s", c.Fetched, len(c.Targets), c.Expires.Local().Format("2006-01-02 15:04 MST"))
	if a.flags.output == "table" {
		return table(a, c.Targets, []column[release.Target]{{"PATH", func(t release.Target) string { return t.Path }},
			{"SIZE", func(t release.Target) string { return bytesize(t.Length) }}, {"SHA-256", func(t release.Target) string { return hex.EncodeToString(t.SHA256) }}})
	}
	items := []map[string]any{}
	for _, t := range c.Targets {
		items = append(items, map[string]any{"path": t.Path, "length": t.Length, "sha256": hex.EncodeToString(t.SHA256)})
	}
	b, err := json.Marshal(map[string]any{"items": items, "fetched": c.Fetched, "expiresAt": c.Expires.UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	return a.printJSON(b)
}
