package replicas

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/doctor"
)

// A doctor on one replica's machine names what is wrong with the others as it is seen from there.
func TestTheDoctorLooksAtTheOtherReplicas(t *testing.T) {
	c, ways := startApart(t, 3)
	d := c.replicas[0]
	look := func() (map[string]doctor.Finding, []doctor.Finding) {
		t.Helper()
		out, err := exec.CommandContext(c.within(time.Minute), program, "doctor", "-o", "json", "--data-dir", d.DataDir, "--listen", d.Address, "--metrics-listen", "off",
			"--database", c.database, "--cluster-listen", ways[0].bus.to, "--replica-listen", ways[0].peer.to).Output()
		if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		var r doctor.Report
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		by := map[string]doctor.Finding{}
		for _, f := range r.Findings {
			if f.Check != "replicas" || by[f.Check].Code == "" {
				by[f.Check] = f
			}
		}
		return by, r.Findings
	}
	c.until(20*time.Second, func() error { // the last that joined is in everybody's keyset within seconds
		if by, all := look(); by["replicas"].Status != doctor.OK || by["replica_clock"].Status != doctor.OK || by["database"].Status != doctor.OK {
			return fmt.Errorf("all is well, and it finds %+v", all)
		}
		return nil
	})
	ways[1].peer.cut()
	if by, all := look(); by["replicas"].Code != "peer_cut" || by["replicas"].Status != doctor.Failed || by["replicas"].Hint == "" {
		t.Errorf("with a replica that does not answer it finds %+v", all)
	}
	ways[1].peer.mend()
	if err := c.replicas[2].Kill(); err != nil {
		t.Fatal(err)
	}
	c.until(time.Minute, func() error {
		if by, all := look(); by["replicas"].Code != "replica_gone" {
			return fmt.Errorf("with a replica that died it finds %+v", all)
		}
		return nil
	})
}
