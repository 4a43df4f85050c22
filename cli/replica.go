package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

func (a *app) replicaCommand() *cobra.Command {
	type T = *pb.Replica
	all := func(ctx context.Context, s *api) ([]T, error) {
		r, err := call(ctx, s, s.replicas.ListReplicas, &pb.ListReplicasRequest{})
		return r.GetItems(), err
	}
	return noun("replica", "Replicas: the processes that are the control plane together",
		&cobra.Command{Use: "list", Short: "List replicas as the one that answers, marked *, sees them", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
				items, err := all(ctx, s)
				return items, "", err
			}, "there are no replicas that you may see",
				column[T]{"NAME", func(r T) string {
					if r.Answering {
						return r.Name + " *"
					}
					return r.Name
				}},
				column[T]{"STATE", T.GetState}, column[T]{"VERSION", T.GetVersion}, column[T]{"ADDRESS", T.GetAddress},
				column[T]{"SINCE", func(r T) string { return ago(r.StartedAt) }}, column[T]{"LAST SEEN", func(r T) string { return ago(r.SeenAt) }},
				column[T]{"LINKS", func(r T) string { return strconv.FormatInt(r.Links, 10) }},
				column[T]{"LEASES", func(r T) string { return strings.Join(r.Leases, ", ") }}, column[T]{"BUS", busPeers},
				column[T]{"CLOCK", clockOffset}, column[T]{"TROUBLES", func(r T) string { return strings.Join(r.Troubles, ", ") }})
		})},
		&cobra.Command{Use: "show REPLICA", Short: "Show a replica, and in what it differs from the others", Args: args("REPLICA"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			items, err := all(ctx, s)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(items, func(r T) bool { return r.Name == w[0] })
			if i < 0 {
				return fault.New(fault.NotFound, "replica_not_found", "there is no replica %s", w[0]).WithHint("see which there are: loopback replica list")
			}
			r := items[i]
			if err := a.print(r, [2]string{"name", r.Name}, [2]string{"state", r.State}, [2]string{"version", r.Version}, [2]string{"address", r.Address},
				[2]string{"bus address", r.BusAddress}, [2]string{"since", stamp(r.StartedAt)}, [2]string{"last seen", stamp(r.SeenAt)},
				[2]string{"links", fmt.Sprint(r.Links)}, [2]string{"leases", strings.Join(r.Leases, ", ")}, [2]string{"bus peers", busPeers(r)},
				[2]string{"clock", clockOffset(r)}, [2]string{"keyset", fmt.Sprint(r.Keyset)}, [2]string{"position", fmt.Sprint(r.Position)},
				[2]string{"troubles", strings.Join(r.Troubles, ", ")}); err != nil {
				return err
			}
			for _, t := range r.Troubles {
				if todo, ok := replicaTroubles[t]; ok {
					a.hint("%s: %s", t, todo)
				}
			}
			return nil
		})},
	)
}

// replicaTroubles is what to do about each.
var replicaTroubles = map[string]string{
	"replica_gone": "look at its machine; where it will not come back: loopbackd evict NAME",
	"clock_apart":  "set its clock by NTP: timedatectl set-ntp true; where all show it, the database's clock is wrong",
	"bus_cut":      "look at the way between the replicas' cluster-listen ports, or to the bus outside: loopbackd doctor",
	"peer_cut":     "look at the way to its replica-listen port from the replica that answers: loopbackd doctor there",
	"keyset_old":   "it cannot read the newest keyset from the database: look at its log",
}

func busPeers(r *pb.Replica) string {
	if r.BusPeers == nil {
		return ""
	}
	return strconv.FormatInt(r.GetBusPeers(), 10)
}

// clockOffset is by how much the replica's clock is ahead of the database's.
func clockOffset(r *pb.Replica) string {
	if r.ClockOffset == nil {
		return ""
	}
	d := r.ClockOffset.AsDuration().Round(time.Millisecond)
	if d < 0 {
		return d.String()
	}
	return "+" + d.String()
}
