package powercut_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/loopbackd/loopback/test/powercut"
)

func disk(t *testing.T) *powercut.Disk {
	t.Helper()
	return powercut.New(t, filepath.Join(t.TempDir(), "disk"), rand.New(rand.NewPCG(1, 2)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cut takes the power away and brings it back.
func cut(t *testing.T, d *powercut.Disk) powercut.Loss {
	t.Helper()
	d.Off()
	lost, err := d.On()
	must(t, err)
	return lost
}

func syncFolder(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	must(t, errors.Join(f.Sync(), f.Close()))
}

func TestWhatWasSyncedSurvivesEveryCut(t *testing.T) {
	d := disk(t)
	path := filepath.Join(d.Path, "kept")
	want := bytes.Repeat([]byte("safe"), 5000) // blocks, and a part of one
	f, err := os.Create(path)
	must(t, err)
	_, err = f.Write(want)
	must(t, errors.Join(err, f.Sync()))
	syncFolder(t, d.Path)
	for range 20 {
		// Written over, beyond the end, and made shorter, and none of it synced: a block is the old one or the new one.
		_, err = f.WriteAt(bytes.Repeat([]byte("lost"), 1024), 4096)
		must(t, err)
		_, err = f.WriteAt([]byte("beyond"), 50_000)
		must(t, errors.Join(err, f.Close()))
		cut(t, d)
		got, err := os.ReadFile(path)
		must(t, err)
		if len(got) < len(want) {
			t.Fatalf("got %d bytes after a cut, want at least the %d that were synced", len(got), len(want))
		}
		for i := 0; i < len(want); i += 4096 {
			end := min(i+4096, len(want))
			if i != 4096 && !bytes.Equal(got[i:end], want[i:end]) {
				t.Fatalf("the block at %d was not written, and changed", i)
			}
			if i == 4096 && !bytes.Equal(got[i:end], want[i:end]) && !bytes.Equal(got[i:end], bytes.Repeat([]byte("lost"), 1024)) {
				t.Fatalf("the block at %d is neither what was synced nor what was written", i)
			}
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(want, 0)
		must(t, errors.Join(err, f.Truncate(int64(len(want))), f.Sync()))
	}
	must(t, f.Close())
}

func TestWhatWasNotSyncedIsLostNowAndThen(t *testing.T) {
	d := disk(t)
	var names, contents, olds int
	for range 40 {
		for _, n := range []string{"new", "written", "renamed"} {
			if err := os.Remove(filepath.Join(d.Path, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		must(t, os.WriteFile(filepath.Join(d.Path, "written"), nil, 0o600))
		must(t, os.WriteFile(filepath.Join(d.Path, "renamed"), []byte("old"), 0o600))
		f, err := os.Open(filepath.Join(d.Path, "renamed"))
		must(t, err)
		must(t, errors.Join(f.Sync(), f.Close()))
		syncFolder(t, d.Path)

		must(t, os.WriteFile(filepath.Join(d.Path, "written"), []byte("content"), 0o600))
		f, err = os.Create(filepath.Join(d.Path, "new"))
		must(t, err)
		_, err = f.WriteString("synced, its name not")
		must(t, errors.Join(err, f.Sync(), f.Close()))
		must(t, os.Rename(filepath.Join(d.Path, "new"), filepath.Join(d.Path, "renamed")))
		cut(t, d)
		if got, err := os.ReadFile(filepath.Join(d.Path, "written")); err != nil || len(got) == 0 {
			contents++
		} else if string(got) != "content" {
			t.Fatalf("got %q, want all or nothing of one block", got)
		}
		switch got, err := os.ReadFile(filepath.Join(d.Path, "renamed")); {
		case err != nil:
			t.Fatalf("a rename lost both: %v", err)
		case string(got) == "old":
			olds++
		case string(got) != "synced, its name not":
			t.Fatalf("got %q after a rename that was cut", got)
		}
		if _, err := os.Stat(filepath.Join(d.Path, "new")); err == nil {
			names++
		}
	}
	if contents < 5 || contents > 35 || olds < 5 || olds > 35 {
		t.Errorf("of 40 cuts, %d lost content and %d a rename: the dice decide nothing", contents, olds)
	}
	if names > 0 {
		t.Errorf("%d times there was a name that was neither synced nor there at the cut", names)
	}
}

func TestWithoutPowerEveryCallFails(t *testing.T) {
	d := disk(t)
	f, err := os.Create(filepath.Join(d.Path, "file"))
	must(t, err)
	d.Off()
	if _, err := f.WriteString("late"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write without power: got %v, want EIO", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync without power: got %v, want EIO", err)
	}
	_ = f.Close() // of a disk that is gone
	if _, err := d.On(); err != nil {
		t.Fatal(err)
	}
}

// A test that fails leaves files open; its process must end all the same.
func TestADiskGoesWhileAFileOnItIsOpen(t *testing.T) {
	var left *os.File
	t.Run("a test that leaves a file open", func(t *testing.T) {
		d := disk(t)
		var err error
		if left, err = os.Create(filepath.Join(d.Path, "left")); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := left.Write([]byte("x")); err == nil {
		t.Error("the disk is still there")
	}
	_ = left.Close() // it fails at once
}
