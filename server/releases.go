package server

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/storage"
)

// openReleases is where releases lie: in a folder of the data folder, or, where there are or were several replicas, in
// their database, with what was fetched kept in the folder. owner is then the replica's name for the lease, and sweep
// clears what nobody refers to.
func (s *Server) openReleases(ctx context.Context) (blobs release.Blobs, owner string, sweep func(context.Context) error, err error) {
	folder, err := release.NewFolder(filepath.Join(s.options.Settings.DataDir, "releases"))
	if err != nil {
		return nil, "", nil, err
	}
	shared := release.NewShared(storage.Bind[release.BlobReader, release.BlobTx](s.db), s.options.Clock)
	if !s.options.Settings.Cluster.On() {
		_, err := shared.Stat(ctx, release.Current)
		if errors.Is(err, fs.ErrNotExist) {
			return folder, "", nil, nil
		}
		if err != nil {
			return nil, "", nil, err
		}
	}
	imported, err := release.Import(ctx, folder, shared)
	if err != nil {
		return nil, "", nil, wrap("giving the releases of this machine to all replicas", err)
	}
	if imported {
		s.log.Info("the releases of this machine are in the database now, for all replicas")
	}
	return release.NewCached(shared, folder, s.log), s.replica, shared.Sweep, nil
}

// followReleases takes up what other replicas publish.
func (s *Server) followReleases(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		if anew || slices.ContainsFunc(changes, func(c feed.Change) bool { return c.Kind == feed.Release }) {
			if err := s.releases.Refresh(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("what another replica published cannot be read yet; it is looked at again when somebody asks for it", "error", err)
			}
		}
	}
}
