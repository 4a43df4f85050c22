package link

import (
	"strings"
	"time"
	"unicode/utf8"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// Bounds on what hosts say of themselves. What exceeds them is cut, not refused: a host with three hundred disks is a
// host all the same.
const (
	maxText    = 256
	maxMessage = 1024
	maxList    = 512
)

func clip(s string) string { return clipTo(s, maxText) }

// clipTo cuts text and makes it fit for one line of a log or terminal.
func clipTo(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, n := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && n == 1 {
			s = s[:len(s)-1]
		}
		s = strings.Clone(s) // what is kept must not keep the whole frame's text alive
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

func inventoryIn(m *pb.Inventory) host.Inventory {
	out := host.Inventory{
		HostName: clip(m.GetHostName()), OS: clip(m.GetOs()), OSVersion: clip(m.GetOsVersion()), OSName: clip(m.GetOsName()),
		Kernel: clip(m.GetKernel()), Architecture: clip(m.GetArchitecture()), CPUModel: clip(m.GetCpuModel()),
		CPUs: max(int(m.GetCpus()), 0), MemoryBytes: max(m.GetMemoryBytes(), 0), Virtualisation: clip(m.GetVirtualisation()),
		BootID: clip(m.GetBootId()), MachineID: clip(m.GetMachineId()), AgentVersion: clip(m.GetAgentVersion()),
	}
	for _, d := range m.GetDisks()[:min(len(m.GetDisks()), maxList)] {
		out.Disks = append(out.Disks, host.Disk{Mount: clip(d.GetMount()), Device: clip(d.GetDevice()),
			FileSystem: clip(d.GetFileSystem()), SizeBytes: max(d.GetSizeBytes(), 0)})
	}
	for _, a := range m.GetAddresses()[:min(len(m.GetAddresses()), maxList)] {
		out.Addresses = append(out.Addresses, host.Address{Interface: clip(a.GetInterface()), MAC: clip(a.GetMac()), Prefix: clip(a.GetPrefix())})
	}
	return out
}

func ceilingIn(m *pb.Ceiling) host.Ceiling {
	out := host.Ceiling{Exec: m.GetExec(), Shell: m.GetShell(), Files: m.GetFiles(), Power: m.GetPower()}
	for _, name := range m.GetModules()[:min(len(m.GetModules()), maxList)] {
		out.Modules = append(out.Modules, clip(name))
	}
	return out
}

// troubleIn reads a trouble. A code is one word: what is none has no code.
func troubleIn(now time.Time, m *pb.LinkTrouble) host.Trouble {
	t := host.Trouble{Code: m.GetCode(), Message: clipTo(m.GetMessage(), maxMessage), At: now, Attempts: max(m.GetAttempts(), 0)}
	if len(t.Code) > 64 || strings.ContainsFunc(t.Code, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		t.Code = ""
	}
	if at := m.GetAt(); at.IsValid() && at.AsTime().Before(now) {
		t.At = at.AsTime() // a clock that is ahead is one of the troubles
	}
	return t
}

// statusIn reads a section's status; not ok where it cannot be one.
func statusIn(s *pb.SectionHeld) (section.Status, bool) {
	out := section.Status{
		Name: s.GetName(), Revision: section.Revision{Epoch: s.GetRevision().GetEpoch(), Number: s.GetRevision().GetNumber()},
		State: section.State(s.GetState()), Message: clipTo(s.GetMessage(), maxMessage), Frozen: s.GetFrozen(),
	}
	switch out.State {
	case section.Pending, section.Applied, section.Failed, section.Degraded:
	default:
		return out, false
	}
	if out.Name == "" || len(out.Name) > 64 {
		return out, false
	}
	switch len(s.GetDigest()) {
	case 0:
	case len(out.Digest):
		out.Digest = section.Digest(s.GetDigest())
	default:
		return out, false
	}
	if at := s.GetAppliedAt(); at != nil {
		if !at.IsValid() {
			return out, false
		}
		out.AppliedAt = at.AsTime().Truncate(time.Microsecond) // as databases keep it: heard again, it is no news
	}
	return out, true
}
