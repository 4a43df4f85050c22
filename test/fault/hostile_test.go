package fault

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// Whatever strangers and hosts send, the control plane stays up, its memory stays bounded and others are served.
func TestHostileEnvelopesLeaveItStanding(t *testing.T) {
	random := dice(t)
	d := start(t, "--log-level", "error")
	_, secret := mint(t, d, 10_000)
	bystanders := agents(t, d, 20, secret, nil)
	await(t, bystanders, time.Minute, func(c fleet.Counts) bool { return c.Linked == 20 })
	pid := d.PID()
	rounds := size(4, 60)
	var highest, first int64
	for round := range rounds {
		var attack sync.WaitGroup
		for i := range 12 {
			mine := rand.New(rand.NewPCG(random.Uint64(), 0))
			attack.Go(func() {
				switch i % 4 {
				case 0:
					garbagePort(t, d, mine)
				case 1:
					garbageRequests(t, d, mine)
				case 2:
					garbageFrames(t, d, mine, i)
				default:
					millionBytes(t, d, secret, mine, 100+i)
				}
			})
		}
		attack.Wait()
		resident, err := daemon.Resident(pid)
		if err != nil {
			t.Fatalf("round %d: the control plane is gone: %v", round, err)
		}
		if round == 0 {
			first = resident
		}
		highest = max(highest, resident)
	}
	select {
	case <-d.Ended():
		t.Fatal("the control plane ended")
	default:
	}
	// Garbage collection lags behind; what is held for good would grow by each round's 36 MB.
	if most := first + 128<<20; highest > most {
		t.Errorf("memory: got %d MiB, %d MiB after the first round", highest>>20, first>>20)
	}
	if c := bystanders.Counts(); c.Linked != 20 || c.Links != 20 {
		t.Errorf("bystanders: got %d of 20 linked, %d links made", c.Linked, c.Links)
	}
	if _, err := d.Mint(t.Context(), 1); err != nil {
		t.Errorf("the API: %v", err)
	}
	t.Logf("%d rounds: memory %d MiB after the first, at most %d MiB", rounds, first>>20, highest>>20)
}

func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// garbagePort sends noise to the port, with and without TLS around it.
func garbagePort(t *testing.T, d *daemon.Daemon, random *rand.Rand) {
	for _, sealed := range []bool{false, true} {
		c, err := net.DialTimeout("tcp", d.Address, 10*time.Second)
		if err != nil {
			t.Errorf("the port: %v", err)
			return
		}
		if sealed {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // a stranger does not care
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write(noise(random, 1<<16)) // cut off in the middle, as a rule
		_ = c.Close()
	}
}

// garbageRequests sends noise and a body that has no end to the ways in for agents.
func garbageRequests(t *testing.T, d *daemon.Daemon, random *rand.Rand) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, size := range []int{0, 100, 1 << 20, 8 << 20} {
		for _, path := range []string{"/agent/v1/poll", "/agent/v1/link", "/api/loopback.v1.TokenService/MintToken"} {
			r, err := http.NewRequest(http.MethodPost, d.URL+path, bytes.NewReader(noise(random, size)))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/proto")
			if random.IntN(2) == 0 {
				r.Header.Set("Loopback-Link", strings.Repeat("x", 1+random.IntN(4000)))
				r.Header.Set("Loopback-Sequence", "18446744073709551615")
			}
			answer, err := client.Do(r)
			if err != nil {
				continue // cut off for its length
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20))
			_ = answer.Body.Close()
			if answer.StatusCode < 400 || answer.StatusCode == http.StatusInternalServerError {
				t.Errorf("%d bytes of noise to %s: got status %d", size, path, answer.StatusCode)
			}
		}
	}
}

// garbageFrames makes a true link and says nonsense on it.
func garbageFrames(t *testing.T, d *daemon.Daemon, random *rand.Rand, i int) {
	for range 8 {
		c, err := d.Dialer([]string{wire.WebSocket, wire.Poll}[random.IntN(2)], 1000+i*100).Dial(t.Context())
		if err != nil {
			continue // told to come back: it is busy with the others
		}
		_ = c.Send(t.Context(), noise(random, 1+random.IntN(wire.MaxEnvelope)))
		_, _ = c.Receive(within(t, 10*time.Second)) // a refusal, or the end
		_ = c.Close()
	}
}

// millionBytes is a host that sends the largest frames there are, and one beyond.
func millionBytes(t *testing.T, d *daemon.Daemon, secret string, random *rand.Rand, i int) {
	a := &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i*100), Token: secret, Name: "large", Version: "1", BootID: "b"}
	if err := a.Enrol(t.Context()); err != nil {
		t.Errorf("enrol: %v", err)
		return
	}
	s, err := a.Link(t.Context())
	if err != nil {
		t.Errorf("link: %v", err)
		return
	}
	defer s.Conn.Close()
	text := strings.Repeat("x", 1_000_000)
	b, err := proto.Marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{
		Inventory: &pb.Inventory{HostName: text}, Ceiling: &pb.Ceiling{}, Digest: noise(random, 32)}}})
	if err != nil {
		t.Error(err)
		return
	}
	for range 3 {
		if err := s.Conn.Send(t.Context(), b); err != nil {
			return // it has had enough
		}
	}
	if err := s.Conn.Send(t.Context(), make([]byte, wire.MaxEnvelope+1)); err == nil {
		t.Errorf("an envelope of %d bytes was sent", wire.MaxEnvelope+1)
	}
}
