package link

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

func revisionOut(r section.Revision) *pb.SectionRevision {
	return &pb.SectionRevision{Epoch: r.Epoch, Number: r.Number}
}

func revisionIn(r *pb.SectionRevision) section.Revision {
	return section.Revision{Epoch: r.GetEpoch(), Number: r.GetNumber()}
}

// digestIn makes a digest of the wrong length one that nothing matches.
func digestIn(b []byte) section.Digest {
	var d section.Digest
	if len(b) != len(d) {
		for i := range d {
			d[i] = 0xff
		}
		return d
	}
	return section.Digest(b)
}

func heldOut(s section.Status) *pb.SectionHeld {
	return &pb.SectionHeld{
		Name: s.Name, Revision: revisionOut(s.Revision), Digest: s.Digest[:], State: string(s.State),
		Message: validText(s.Message), AppliedAt: timestamp(s.AppliedAt), Frozen: s.Frozen,
	}
}

func itemsIn(in []*pb.SectionItem) []section.Item {
	out := make([]section.Item, len(in))
	for i, it := range in {
		out[i] = section.Item{Key: it.GetKey(), Value: it.GetValue()}
	}
	return out
}

func wholeIn(w *pb.SectionWhole) section.Section {
	return section.Section{Name: w.GetName(), Revision: revisionIn(w.GetRevision()), Digest: digestIn(w.GetDigest()), Items: itemsIn(w.GetItems())}
}

func deltaIn(d *pb.SectionDelta) section.Delta {
	return section.Delta{
		Name: d.GetName(), Base: revisionIn(d.GetBase()), BaseDigest: digestIn(d.GetBaseDigest()),
		Revision: revisionIn(d.GetRevision()), Digest: digestIn(d.GetDigest()), Put: itemsIn(d.GetPut()), Delete: d.GetDelete(),
	}
}

func inventoryOut(i host.Inventory) *pb.Inventory {
	out := &pb.Inventory{
		HostName: i.HostName, Os: i.OS, OsVersion: i.OSVersion, OsName: i.OSName, Kernel: i.Kernel,
		Architecture: i.Architecture, CpuModel: i.CPUModel, Cpus: int32(min(i.CPUs, math.MaxInt32)), MemoryBytes: i.MemoryBytes,
		Virtualisation: i.Virtualisation, BootId: i.BootID, MachineId: i.MachineID, AgentVersion: i.AgentVersion,
	}
	for _, d := range i.Disks {
		out.Disks = append(out.Disks, &pb.Disk{Mount: d.Mount, Device: d.Device, FileSystem: d.FileSystem, SizeBytes: d.SizeBytes})
	}
	for _, a := range i.Addresses {
		out.Addresses = append(out.Addresses, &pb.InterfaceAddress{Interface: a.Interface, Mac: a.MAC, Prefix: a.Prefix})
	}
	return out
}

func ceilingOut(c host.Ceiling) *pb.Ceiling {
	return &pb.Ceiling{Exec: c.Exec, Shell: c.Shell, Files: c.Files, Power: c.Power, Modules: c.Modules}
}

// validText makes text fit for protobuf, which takes UTF-8 only.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
