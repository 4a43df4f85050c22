package state

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/powercut"
)

// What a method has stored is there after the power went, on a folder that was just made too, and a write that was cut
// leaves what was there before.
func TestWhatIsStoredSurvivesAPowerCut(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for range 8 {
		disk := powercut.New(t, filepath.Join(t.TempDir(), "disk"), random)
		dir := filepath.Join(disk.Path, "lib", "loopback")
		var stored int64 // the generation and the section's number that were acknowledged
		for range 6 {
			s, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for range random.IntN(4) {
				i := identity()
				i.Generation = stored + 1
				if err := s.PutIdentity(i); err != nil {
					t.Fatal(err)
				}
				if err := s.PutSection(Held{Section: section.Section{Name: "settings", Revision: section.Revision{Epoch: 1, Number: uint64(stored + 1)}}}); err != nil {
					t.Fatal(err)
				}
				stored++
			}
			if random.IntN(2) == 0 { // one more is under way: half of it was stored
				i := identity()
				i.Generation = stored + 1
				if err := s.PutIdentity(i); err != nil {
					t.Fatal(err)
				}
			}
			disk.Off()
			_ = s.Close() // of a disk that is gone
			if _, err := disk.On(); err != nil {
				t.Fatal(err)
			}
			if stored == 0 {
				continue
			}
			got, err := ReadIdentity(dir)
			if err != nil || got.Generation < stored {
				t.Fatalf("identity: got generation %d, %v; want at least %d, which was stored", got.Generation, err, stored)
			}
			s, err = Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			held, aside, err := s.Sections()
			if err != nil || len(aside) > 0 || len(held) != 1 || held[0].Section.Revision.Number != uint64(stored) {
				t.Fatalf("sections: got %v, %v aside, %v; want number %d, which was stored", held, aside, err, stored)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
