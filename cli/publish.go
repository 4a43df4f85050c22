package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
)

func (a *app) releasePublish() *cobra.Command {
	var dir, version, channel string
	var rootKeys, threshold int
	c := &cobra.Command{
		Use: "publish --keys FOLDER --version VERSION FOLDER", Short: "Sign programs with keys held here, and publish them",
		Long: `Sign programs with keys held here, and publish them.

The folder holds one folder a platform, each with the programs for it: linux-amd64/loopback-agent; and beside them, where
` + "`loopback release package`" + ` made them, packages and lists of parts. The keys never leave their folder; where it does not exist they are made. Publishing the same again changes nothing; a publication that was
cut off goes on where it stopped. Without a folder of programs only signatures that are due are renewed.`,
		Example: "  loopback release publish --keys ~/release-keys --version 1.2.3 --channel preview dist/",
		Args: func(_ *cobra.Command, w []string) error {
			if len(w) > 1 {
				return usage("%q is one word too many", w[1])
			}
			return nil
		},
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if dir == "" {
				return usage("--keys is missing: the folder of the release keys")
			}
			var artefacts []publish.Artefact
			if len(w) == 1 {
				var err error
				if artefacts, err = programs(w[0], version, channel); err != nil {
					return err // before keys are made
				}
			}
			keys, err := publish.Open(dir)
			if _, missing := os.Stat(filepath.Join(dir, "keys.json")); errors.Is(missing, fs.ErrNotExist) {
				if keys, err = publish.Create(dir, rootKeys, threshold); err == nil {
					a.hint("made release keys in %s: keep them off the control plane, and back them up", dir)
				}
			}
			if err != nil {
				return err
			}
			told := ""
			published, err := keys.Publish(ctx, publisher{s}, artefacts, func(p publish.Progress) {
				if line := p.Step + " " + p.Path; line != told {
					told = line
					a.hint("%s", strings.TrimSpace(line))
				}
			})
			if err != nil {
				return err
			}
			type R = release.Release
			if a.flags.output != "table" {
				var items []*pb.Release
				for _, r := range published {
					found, err := call(ctx, s, s.releases.GetRelease, &pb.GetReleaseRequest{Release: r.Name})
					if err != nil {
						return err
					}
					items = append(items, found)
				}
				return printItems(a, items)
			}
			return table(a, published, []column[R]{{"PROGRAM", func(r R) string { return r.Program }},
				{"VERSION", func(r R) string { return r.Version }}, {"CHANNEL", func(r R) string { return r.Channel }}})
		}),
	}
	f := c.Flags()
	f.StringVar(&dir, "keys", "", "`FOLDER` of the release keys; made where it does not exist")
	f.StringVar(&version, "version", "", "`VERSION` of the programs: 1.2.3")
	f.StringVar(&channel, "channel", release.Stable, "`CHANNEL`: stable or preview")
	f.IntVar(&rootKeys, "root-keys", 1, "when keys are made: how many for the root")
	f.IntVar(&threshold, "root-threshold", 1, "when keys are made: how many of them must sign")
	return c
}

// programs finds OS-ARCH/NAME below a folder, and what goes with them.
func programs(dir, version, channel string) ([]publish.Artefact, error) {
	if !release.ValidVersion(version) {
		return nil, usage("--version is %q, not a version like 1.2.3", version)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*-*", "*"))
	if err != nil || len(files) == 0 {
		return nil, usage("there is nothing in %s that looks like linux-amd64/loopback-agent", dir)
	}
	var out []publish.Artefact
	for _, f := range files {
		system, arch, _ := strings.Cut(filepath.Base(filepath.Dir(f)), "-")
		name, format, err := formatOf(f, version, arch)
		if err != nil {
			return nil, err
		}
		out = append(out, publish.Artefact{File: f, Name: name, Version: version, OS: system, Architecture: arch, Channel: channel, Format: format})
	}
	return out, nil
}

// publisher is the control plane as a publisher sees it.
type publisher struct{ api *api }

func (p publisher) Metadata(ctx context.Context) (publish.Metadata, error) {
	m, err := call(ctx, p.api, p.api.releases.GetReleaseMetadata, &pb.GetReleaseMetadataRequest{})
	return publish.Metadata{Files: m.GetFiles(), SnapshotKey: m.GetSnapshotKey(), TimestampKey: m.GetTimestampKey()}, err
}

func (p publisher) Upload(ctx context.Context, sha256 string, length, offset int64, data []byte) (int64, bool, error) {
	r, err := call(ctx, p.api, p.api.releases.UploadArtefact, &pb.UploadArtefactRequest{Sha256: sha256, Length: length, Offset: offset, Data: data})
	return r.GetOffset(), r.GetComplete(), err
}

func (p publisher) Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error) {
	r, err := call(ctx, p.api, p.api.releases.PublishRelease, &pb.PublishReleaseRequest{Roots: roots, Targets: targets})
	if err != nil {
		return nil, err
	}
	var out []release.Release
	for _, item := range r.Items {
		one := release.Release{Program: item.Program, Version: item.Version, Channel: item.Channel, PublishedAt: item.PublishedAt.AsTime()}
		one.ID, one.Name = item.Id, item.Name
		for _, t := range item.Targets {
			sum, err := hex.DecodeString(t.Sha256)
			if err != nil {
				return nil, fault.New(fault.Internal, "answer_invalid", "the control plane's answer cannot be read").WithCause(err)
			}
			one.Targets = append(one.Targets, release.Target{Path: t.Path, OS: t.Os, Architecture: t.Architecture, Length: t.Length, SHA256: sum, Format: t.Format})
		}
		out = append(out, one)
	}
	return out, nil
}
