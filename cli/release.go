package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) releaseCommand() *cobra.Command {
	type T = *pb.Release
	q := &pb.ListReleasesRequest{}
	ls := &cobra.Command{Use: "list", Short: "List releases, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			q.Page = p
			r, err := call(ctx, s, s.releases.ListReleases, q)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "nothing is published yet: loopback release publish",
			column[T]{"PROGRAM", T.GetProgram}, column[T]{"VERSION", T.GetVersion}, column[T]{"CHANNEL", T.GetChannel},
			column[T]{"PUBLISHED", func(r T) string { return ago(r.PublishedAt) }}, column[T]{"ID", T.GetId})
	})}
	ls.Flags().StringVar(&q.Program, "program", "", "only of this `PROGRAM`")
	ls.Flags().StringVar(&q.Channel, "channel", "", "only on this `CHANNEL`: stable or preview")
	return noun("release", "Releases: the agents and modules that hosts may run",
		ls, a.releasePublish(), a.releasePackage(), a.releaseBundle(), a.releaseMirror(),
		&cobra.Command{Use: "show RELEASE", Short: "Show a release and its artefacts", Args: args("RELEASE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			r, err := call(ctx, s, s.releases.GetRelease, &pb.GetReleaseRequest{Release: w[0]})
			if err != nil {
				return err
			}
			fields := [][2]string{{"id", r.Id}, {"program", r.Program}, {"version", r.Version}, {"channel", r.Channel}, {"published", stamp(r.PublishedAt)}}
			for _, t := range r.Targets {
				fields = append(fields, [2]string{strings.TrimSpace(t.Os + "/" + t.Architecture + " " + t.Format), fmt.Sprintf("%s, SHA-256 %s", bytesize(t.Length), t.Sha256)})
			}
			return a.print(r, fields...)
		})},
	)
}
