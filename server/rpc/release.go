package rpc

import (
	"context"
	"encoding/hex"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/server/install"
	"github.com/loopbackd/loopback/server/release"
)

// Releases is loopback.v1.ReleaseService.
type Releases struct {
	Service *release.Service
	Install *install.Service
}

// ListReleases is the catalogue.
func (h Releases) ListReleases(ctx context.Context, r *connect.Request[v1.ListReleasesRequest]) (*connect.Response[v1.ListReleasesResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetProgram(), r.Msg.GetChannel(), page(r.Msg.GetPage()))
	return answer(&v1.ListReleasesResponse{Items: each(items, releaseOf), NextPageToken: next}, err)
}

// GetRelease is one release.
func (h Releases) GetRelease(ctx context.Context, r *connect.Request[v1.GetReleaseRequest]) (*connect.Response[v1.Release], error) {
	found, err := h.Service.Get(ctx, r.Msg.GetRelease())
	return answer(releaseOf(found), err)
}

// GetReleaseMetadata is what a publisher builds upon.
func (h Releases) GetReleaseMetadata(ctx context.Context, _ *connect.Request[v1.GetReleaseMetadataRequest]) (*connect.Response[v1.GetReleaseMetadataResponse], error) {
	files, snapshot, timestamp, err := h.Service.Metadata(ctx)
	return answer(&v1.GetReleaseMetadataResponse{Files: files, SnapshotKey: snapshot, TimestampKey: timestamp}, err)
}

// UploadArtefact stores a part.
func (h Releases) UploadArtefact(ctx context.Context, r *connect.Request[v1.UploadArtefactRequest]) (*connect.Response[v1.UploadArtefactResponse], error) {
	offset, complete, err := h.Service.Upload(ctx, release.Part{
		SHA256: r.Msg.GetSha256(), Length: r.Msg.GetLength(), Offset: r.Msg.GetOffset(), Data: r.Msg.GetData(),
	})
	return answer(&v1.UploadArtefactResponse{Offset: offset, Complete: complete}, err)
}

// PublishRelease makes signed metadata current.
func (h Releases) PublishRelease(ctx context.Context, r *connect.Request[v1.PublishReleaseRequest]) (*connect.Response[v1.PublishReleaseResponse], error) {
	items, err := h.Service.Publish(ctx, r.Msg.GetRoots(), r.Msg.GetTargets())
	return answer(&v1.PublishReleaseResponse{Items: each(items, releaseOf)}, err)
}

// GetInstallCommand is what to run on a server.
func (h Releases) GetInstallCommand(ctx context.Context, r *connect.Request[v1.GetInstallCommandRequest]) (*connect.Response[v1.InstallCommand], error) {
	c, err := h.Install.Command(r.Msg.GetChannel(), r.Msg.GetVersion())
	return answer(&v1.InstallCommand{Command: c.Line, Url: c.URL, PinnedKey: c.PinnedKey}, err)
}

func releaseOf(r noun.Release) *v1.Release {
	out := &v1.Release{
		Id: r.ID, Name: r.Name, Labels: r.Labels, CreatedAt: timestamp(r.CreatedAt), UpdatedAt: timestamp(r.UpdatedAt), Revision: r.Revision,
		Program: r.Program, Version: r.Version, Channel: r.Channel, PublishedAt: timestamp(r.PublishedAt),
	}
	for _, t := range r.Targets {
		out.Targets = append(out.Targets, &v1.ReleaseTarget{Path: t.Path, Os: t.OS, Architecture: t.Architecture, Length: t.Length, Sha256: hex.EncodeToString(t.SHA256), Format: t.Format})
	}
	return out
}
