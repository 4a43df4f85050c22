// Package powercut is a disk that loses what was not synced, for tests that cut the power.
//
// SIGKILL does not test durability: the kernel still holds what the process wrote. A Disk is a file system of this
// process, mounted by FUSE, that remembers what has reached stable storage: a file's content at its last fsync, a folder's
// names at the last fsync of the folder. Cut takes it from under whoever uses it, so that every call fails from then on,
// and goes back to that. A real disk may have written more than it was asked to, in any order: every block that was
// written since, and every folder's names as a whole, are kept or lost by dice. So a program survives only if each thing
// it acknowledged was synced first, the file and the name under which it will be looked for, and if it can make sense of
// any part of what was under way.
//
// Stricter than most file systems: a file's first fsync does not save its name. Kinder: a block is never half written,
// and the names of one folder are never mixed. Owner and mode bits need no sync.
package powercut

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// block is what a disk writes whole or not at all.
const block = 4096

// Disk is a mounted file system. Its content lives in memory and dies with the test.
type Disk struct {
	Path string // where it is mounted

	dice       *rand.Rand
	server     *fuse.Server
	connection string // its number, as the kernel counts FUSE's

	mu   sync.Mutex // guards all nodes too
	root *node
	last uint64 // number of the newest node
	off  bool   // the power is cut: every call fails
	cuts Loss   // in all cuts so far
}

// Loss is what a cut took away, so that a test can tell that it was one.
type Loss struct {
	Blocks, Names int // lost
	Kept          int // blocks that were not synced and got there all the same
}

// node is a file or a folder. What is under way is in live and names, what is safe in safe.
type node struct {
	number uint64
	mode   uint32 // file type and permissions
	links  int    // names that it has now
	mtime  time.Time

	names     map[string]*node // of a folder, else nil
	safeNames map[string]*node

	live     []byte           // a file's content
	safe     map[int64][]byte // by block that changed since the last fsync: what it held then; nil beyond the end
	safeSize int64
}

// New mounts an empty disk on a folder that it makes, until the test ends.
func New(t testing.TB, path string, dice *rand.Rand) *Disk {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("FUSE is needed to lose unsynced writes: %v", err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &Disk{Path: path, dice: dice}
	d.root = d.make(syscall.S_IFDIR | 0o700)
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// end takes the disk away. A process that exits with a file on its own disk open would wait for ever for itself to answer
// the close: a disk whose files are still open is cut off from the kernel.
func (d *Disk) end() error {
	if err := d.unmount(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		d.server.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-time.After(2 * time.Second):
	}
	control, err := os.MkdirTemp("", "fusectl-")
	if err != nil {
		return err
	}
	defer os.Remove(control)
	if err := syscall.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	defer syscall.Unmount(control, syscall.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(control, d.connection, "abort"), []byte("1"), 0); err != nil {
		return fmt.Errorf("abort the connection: %w", err)
	}
	<-gone
	return nil
}

func (d *Disk) mount() error {
	second := time.Second
	server, err := fs.Mount(d.Path, &inode{disk: d, node: d.root}, &fs.Options{
		AttrTimeout: &second, EntryTimeout: &second, RootStableAttr: &fs.StableAttr{Ino: d.root.number, Mode: syscall.S_IFDIR},
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "powercut", Name: "powercut", MaxWrite: 1 << 17},
	})
	if err != nil {
		return fmt.Errorf("mount on %s: %w", d.Path, err)
	}
	d.server = server
	var at syscall.Stat_t
	if err := syscall.Stat(d.Path, &at); err != nil {
		return fmt.Errorf("look at %s: %w", d.Path, err)
	}
	d.connection = fmt.Sprint(unix.Minor(at.Dev))
	return nil
}

// unmount also works while somebody holds files open: they keep a file system that fails every call.
func (d *Disk) unmount() error {
	if err := syscall.Unmount(d.Path, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.Path, err)
	}
	return nil
}

// Off makes every call fail, as a disk does whose power is gone. What uses it is to be ended before On.
func (d *Disk) Off() {
	d.mu.Lock()
	d.off = true
	d.mu.Unlock()
}

// On comes back with what was synced, and what the dice kept of the rest, and says what was lost. Nobody uses the disk.
func (d *Disk) On() (Loss, error) {
	if err := d.unmount(); err != nil {
		return Loss{}, err
	}
	d.server.Wait()
	d.mu.Lock()
	before := d.cuts
	d.revert(d.root, map[*node]bool{})
	d.off = false
	lost := Loss{d.cuts.Blocks - before.Blocks, d.cuts.Names - before.Names, d.cuts.Kept - before.Kept}
	d.mu.Unlock()
	return lost, d.mount()
}

// Lost is what all cuts took away together.
func (d *Disk) Lost() Loss { d.mu.Lock(); defer d.mu.Unlock(); return d.cuts }

func (d *Disk) make(mode uint32) *node {
	d.last++
	n := &node{number: d.last, mode: mode, mtime: time.Now()}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.names, n.safeNames = map[string]*node{}, map[string]*node{}
	} else {
		n.safe = map[int64][]byte{}
	}
	return n
}

func (d *Disk) revert(n *node, done map[*node]bool) {
	if done[n] {
		return
	}
	done[n] = true
	if n.names == nil {
		d.revertFile(n)
		return
	}
	if d.dice.IntN(2) == 0 {
		for name, child := range n.names {
			if n.safeNames[name] != child {
				d.cuts.Names++
			}
		}
		n.names = maps.Clone(n.safeNames)
	}
	n.safeNames = maps.Clone(n.names)
	// In order, so that a seed gives the same dice.
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		child := n.names[name]
		if !done[child] {
			child.links = 0
		}
		child.links++
		d.revert(child, done)
	}
}

// revertFile gives every block back what it held, but for those that the dice keep.
func (d *Disk) revertFile(n *node) {
	size := n.safeSize
	content := make([]byte, max(int64(len(n.live)), size))
	copy(content, n.live)
	for _, at := range slices.Sorted(maps.Keys(n.safe)) {
		from, to := at*block, min((at+1)*block, int64(len(content)))
		if d.dice.IntN(2) == 0 && from < int64(len(n.live)) {
			d.cuts.Kept++
			size = max(size, min(to, int64(len(n.live))))
			continue
		}
		d.cuts.Blocks++
		if from < to {
			clear(content[from:to])
			copy(content[from:to], n.safe[at])
		}
	}
	n.live = content[:size]
	n.synced()
}

// touch remembers what the blocks between two offsets held at the last fsync, before they change.
func (n *node) touch(from, to int64) {
	for at := from / block; at*block < to; at++ {
		if _, known := n.safe[at]; known {
			continue
		}
		// Not known means unchanged since: what is live there is what is safe.
		end := min((at+1)*block, int64(len(n.live)), n.safeSize)
		if at*block < end {
			n.safe[at] = bytes.Clone(n.live[at*block : end])
		} else {
			n.safe[at] = nil
		}
	}
}

func (n *node) synced() {
	clear(n.safe)
	n.safeSize = int64(len(n.live))
}

func (n *node) write(data []byte, at int64) {
	end := at + int64(len(data))
	n.touch(min(at, int64(len(n.live))), end)
	n.grow(end)
	copy(n.live[at:end], data)
	n.mtime = time.Now()
}

func (n *node) grow(size int64) {
	if more := size - int64(len(n.live)); more > 0 {
		n.live = slices.Grow(n.live, int(more))
		old := len(n.live)
		n.live = n.live[:size]
		clear(n.live[old:])
	}
}

func (n *node) truncate(size int64) {
	old := int64(len(n.live))
	n.touch(min(size, old), max(size, old))
	n.grow(size)
	n.live = n.live[:size]
	n.mtime = time.Now()
}
