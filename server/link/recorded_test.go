package link_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/wire"
)

// What agents of earlier builds say is kept as bytes in testdata/agents, one file a build, and said to today's hub: agents
// that are two versions old keep working. A file is never changed. LOOPBACK_RECORD=NAME records what this build's says.

const recordedHost = "hst_01h0000000000000000000000a"

var (
	recordedHash = sha256.Sum256([]byte("recorded handshake"))
	recordedSeed = sha256.Sum256([]byte("recorded agent"))
)

func recordedKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(recordedSeed[:]) }

// record is what an agent says in its life, in order.
func record() []*pb.AgentFrame {
	key, digest := recordedKey(), sha256.Sum256([]byte("inventory"))
	next := ed25519.NewKeyFromSeed(digest[:])
	inventory := &pb.Inventory{HostName: "web1", Os: "debian", OsVersion: "13", Kernel: "6.12.0", Architecture: "x86_64", Cpus: 2, MemoryBytes: 2 << 30, BootId: "boot-1", AgentVersion: "0.1.0"}
	held := &pb.SectionHeld{Name: "settings", Revision: &pb.SectionRevision{Epoch: 1, Number: 1}, Digest: digest[:], State: string(section.Applied)}
	return []*pb.AgentFrame{
		{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{Token: "token", Proof: wire.SignProof(key, wire.RoleEnrol, "", recordedHash[:]), HostName: "web1", AgentVersion: "0.1.0", Inventory: inventory, Ceiling: &pb.Ceiling{}}}},
		{Body: &pb.AgentFrame_Hello{Hello: &pb.Hello{HostId: recordedHost, Proof: wire.SignProof(key, wire.RoleHello, recordedHost, recordedHash[:]), AgentVersion: "0.1.0", BootId: "boot-1", Connection: 1, Transport: wire.WebSocket, KeysetVersion: 1, Uptime: durationpb.New(time.Hour)}}},
		beat(7),
		{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{Digest: digest[:], Inventory: inventory, Ceiling: &pb.Ceiling{Exec: true}}}},
		{Body: &pb.AgentFrame_SectionReport{SectionReport: &pb.SectionReport{Section: held}}},
		{Body: &pb.AgentFrame_Health{Health: &pb.HealthReport{Modules: []*pb.ModuleHealth{{Module: "mesh", Healthy: true}}}}},
		{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{Code: "dns_failed", Message: "the name did not resolve", Attempts: 3}}},
		{Body: &pb.AgentFrame_KeyOffer{KeyOffer: &pb.KeyOffer{PublicKey: next.Public().(ed25519.PublicKey), Generation: 2, Signature: ed25519.Sign(next, link.OfferMessage(recordedHost, 2))}}},
		{Body: &pb.AgentFrame_Goodbye{Goodbye: &pb.Goodbye{}}},
	}
}

func TestRecord(t *testing.T) {
	name := os.Getenv("LOOPBACK_RECORD")
	if name == "" {
		t.Skip("LOOPBACK_RECORD names no build to record")
	}
	var out bytes.Buffer
	for _, f := range record() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out, hex.EncodeToString(b))
	}
	if err := os.WriteFile(filepath.Join("testdata", "agents", name), out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// frames of a recorded agent.
func frames(t *testing.T, file string) (out [][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f, err := hex.DecodeString(strings.TrimSpace(s.Text()))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

func TestAgentsOfEarlierBuildsAreAnswered(t *testing.T) {
	files, err := filepath.Glob("testdata/agents/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no agent is recorded: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			said := frames(t, file)
			synctest.Test(t, func(t *testing.T) { replay(t, said) })
		})
	}
}

func replay(t *testing.T, said [][]byte) {
	b := newBundle(t)
	open := func() *conn {
		c := &conn{hash: recordedHash}
		c.receiving.Lock()
		defer c.receiving.Unlock()
		c.receiver = b.hub.Accept(c)
		return c
	}
	want(t, b, "warn")
	first := open()
	first.raw(said[0])
	if got := first.heard(); len(got) != 1 || got[0].GetEnrolled().GetHostId() == "" {
		t.Fatalf("its enrolment was answered with %v", got)
	}
	first.Close(nil)

	put(b.fleet)
	c := open()
	c.raw(said[1])
	answers := c.heard()
	if len(answers) == 0 || answers[0].GetWelcome().GetStanding() != "managed" {
		t.Fatalf("its hello was answered with %v", answers)
	}
	whole := false
	for _, f := range answers[1:] {
		whole = whole || f.GetSection().GetName() == "settings"
	}
	if !whole {
		t.Errorf("it was not sent its settings: %v", answers)
	}
	var pulsed, accepted bool
	for _, f := range said[2:] {
		c.raw(f)
		for _, a := range c.heard() {
			if r := a.GetRefusal(); r != nil {
				t.Fatalf("it was refused: %v", r)
			}
			pulsed = pulsed || a.GetPulse().GetSequence() == 7
			accepted = accepted || a.GetKeyAccepted().GetGeneration() == 2
		}
	}
	if !pulsed || !accepted {
		t.Errorf("heartbeat answered: %t; offered key accepted: %t", pulsed, accepted)
	}
	if err := b.hub.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	known := b.fleet.Lookup(recordedHost)
	if !known.Online || known.AgentVersion != "0.1.0" || len(known.InventoryDigest) == 0 || len(known.Modules) != 1 {
		t.Errorf("after all it said, known of it is %+v", known)
	}
	if s := b.fleet.Status(recordedHost, "settings"); s.State != section.Applied || s.Revision.Number != 1 {
		t.Errorf("its report of a section was taken as %+v", s)
	}
	if tr := b.fleet.Troubles(recordedHost); len(tr) != 1 || tr[0].Code != "dns_failed" {
		t.Errorf("its trouble was taken as %+v", tr)
	}
}

func put(f *linktest.Fleet) {
	f.Put(&link.Known{HostID: recordedHost, WorkspaceID: "ws_1", Lifecycle: host.LifecycleActive, Key: recordedKey().Public().(ed25519.PublicKey), Generation: 1})
}
