package fault

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/powercut"
)

// What was acknowledged was synced: it is there after a power cut, which a SIGKILL does not tell. The first cut comes
// soon after the first start, when the folder, the keys and the database are new.
func TestPowerCutsUnderWritesLoseNothing(t *testing.T) {
	random := dice(t)
	disk := powercut.New(t, filepath.Join(t.TempDir(), "disk"), random)
	d := startOn(t, filepath.Join(disk.Path, "lib", "loopbackd"))
	_, secret := mint(t, d, 100_000)
	f := agents(t, d, 4, secret, nil)
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == 4 })
	var linked []string
	for _, a := range f.Agents {
		linked = append(linked, a.HostID())
	}
	losesNothing(t, d, random, secret, linked, size(10, 200), func() {
		disk.Off()
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.On(); err != nil {
			t.Fatal(err)
		}
	})
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == 4 })
	lost := disk.Lost()
	t.Logf("the disk lost %d blocks and %d names, and kept %d blocks that nobody had synced", lost.Blocks, lost.Names, lost.Kept)
	if lost.Blocks == 0 {
		t.Error("no cut lost anything: it tried nothing")
	}
}
