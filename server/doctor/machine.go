package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/server/backup"
)

// Bounds below which space is a warning, or a failure.
const (
	littleSpace  = 1 << 30
	noSpace      = 64 << 20
	fewInodes    = 1000
	fewFiles     = 20_000
	slowCommit   = 100 * time.Millisecond
	oldBackup    = 48 * time.Hour
	certificate  = 14 * 24 * time.Hour
	timestampEnd = 24 * time.Hour
)

// dataFolder tells whether there is one that can be looked into.
func (x *examination) dataFolder() bool {
	dir := x.Settings.DataDir
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.found(Warning, "data_folder", "data_folder_missing", "the first start makes it; where it was there before, is --data-dir right, and the disk mounted?", "%s does not exist", dir)
		return false
	case err != nil:
		x.found(Failed, "data_folder", "data_folder_unusable", "look at its owner and at the folders above it", "%s", err)
		return false
	case !st.IsDir():
		x.found(Failed, "data_folder", "data_folder_unusable", "choose another with --data-dir", "%s is not a folder", dir)
		return false
	}
	var file unix.Stat_t
	switch err := unix.Access(dir, unix.W_OK); {
	case errors.Is(err, unix.EROFS):
		x.found(Failed, "data_folder", "data_folder_read_only", "mount it for writing; a file system that went read-only by itself has failed: dmesg", "%s is on a file system that is mounted read-only", dir)
	case err != nil:
		x.found(Failed, "data_folder", "data_folder_unusable", "run this as the user of loopbackd, or chown -R that user "+dir, "this user may not write %s", dir)
	case st.Mode().Perm()&0o077 != 0:
		x.found(Warning, "data_folder", "data_folder_open", "chmod 700 "+dir, "%s has the mode %o: others may look into it", dir, st.Mode().Perm())
	case unix.Stat(dir, &file) == nil && int(file.Uid) != os.Geteuid() && os.Geteuid() != 0:
		x.found(Warning, "data_folder", "data_folder_owner", "chown -R this user "+dir, "%s belongs to user %d, this is %d", dir, file.Uid, os.Geteuid())
	default:
		x.ok("data_folder", "%s", dir)
	}
	return true
}

// networked are file systems on which SQLite's locks and syncs cannot be relied on (sqlite.org/howtocorrupt.html, 2.1).
var networked = map[int64]string{0x6969: "NFS", 0xFF534D42: "CIFS", 0xFE534D42: "SMB", 0x01021997: "9p", 0x517B: "SMB"}

func (x *examination) space() {
	var s unix.Statfs_t
	if err := unix.Statfs(x.Settings.DataDir, &s); err != nil {
		x.skip("disk_space", "%s", err)
		return
	}
	free, size := int64(s.Bavail)*s.Bsize, int64(s.Blocks)*s.Bsize
	switch {
	case free < noSpace:
		x.found(Failed, "disk_space", "disk_full", "free space on that file system, or grow it; nothing inside the data folder may be deleted", "%d MB are left in %s", free>>20, x.Settings.DataDir)
	case free < littleSpace || free < size/10:
		x.found(Warning, "disk_space", "disk_filling", "free space on that file system, or grow it", "%d MB of %d are left in %s", free>>20, size>>20, x.Settings.DataDir)
	default:
		x.ok("disk_space", "%d MB are left", free>>20)
	}
	if s.Files > 0 && s.Ffree < fewInodes {
		x.found(Warning, "inodes", "inodes_low", "find the folder with the many files: du --inodes -x", "%d inodes are left", s.Ffree)
	} else if s.Files > 0 {
		x.ok("inodes", "%d are left", s.Ffree)
	}
	switch name := networked[int64(uint32(s.Type))]; {
	case name != "":
		x.found(Failed, "file_system", "file_system_network", "put the data folder on a disk of this machine", "the data folder is on %s, whose locks and syncs a database cannot rely on", name)
	case uint32(s.Type) == unix.TMPFS_MAGIC:
		x.found(Warning, "file_system", "file_system_volatile", "put the data folder on a disk", "the data folder is in memory (tmpfs): it is gone after a reboot")
	default:
		x.ok("file_system", "of this machine (type %x)", uint32(s.Type))
	}
}

// durable measures what every commit waits for: a small write that is on the disk.
func (x *examination) durable() {
	f, err := os.CreateTemp(x.Settings.DataDir, ".doctor-*")
	if err != nil {
		x.skip("commit_latency", "%s", err)
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for range 9 {
		began := time.Now()
		_, err := f.Write(make([]byte, 4096))
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			x.found(Failed, "commit_latency", "disk_failing", "look at the kernel's log: dmesg", "a write could not be made durable: %s", err)
			return
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	median := took[len(took)/2].Round(10 * time.Microsecond)
	if median > slowCommit {
		x.found(Warning, "commit_latency", "disk_slow", "use a disk that syncs in milliseconds; network disks seldom do", "a durable write takes %s", median)
		return
	}
	x.ok("commit_latency", "a durable write takes %s", median)
}

func (x *examination) clock() {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	made := time.Time{}
	if st, err := os.Stat(filepath.Join(x.Settings.DataDir, "keys", "keyset.json")); err == nil {
		made = st.ModTime()
	}
	switch {
	case !made.IsZero() && x.now.Before(made.Add(-time.Hour)):
		x.found(Failed, "clock", "clock_behind", "set the clock: timedatectl set-ntp true", "it is %s by this machine's clock, before the keys were made (%s)", x.now.UTC().Format(time.RFC3339), made.UTC().Format(time.RFC3339))
	case err == nil && state == unix.TIME_ERROR:
		x.found(Warning, "clock", "clock_unsynchronised", "set up a time service: timedatectl set-ntp true", "it is %s; nothing keeps this clock right", x.now.UTC().Format(time.RFC3339))
	default:
		x.ok("clock", "it is %s", x.now.UTC().Format(time.RFC3339))
	}
}

func (x *examination) descriptors() {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		x.skip("file_descriptors", "%s", err)
		return
	}
	// A Go program raises its own bound to the hard one.
	if l.Max < fewFiles {
		x.found(Warning, "file_descriptors", "file_descriptors_few", "LimitNOFILE=100000 in the unit", "a process started from here may open %d files; each host takes one", l.Max)
		return
	}
	x.ok("file_descriptors", "a process started from here may open %d", l.Max)
}

func (x *examination) backups() {
	at, err := backup.Last(x.Settings.DataDir)
	switch {
	case err != nil:
		x.skip("backup", "%s", err)
	case at.IsZero():
		x.found(Warning, "backup", "backup_missing", "run loopbackd backup --to FILE from a timer, and keep the file elsewhere", "no backup was ever finished")
	case x.now.Sub(at) > oldBackup:
		x.found(Warning, "backup", "backup_old", "look at the timer that runs loopbackd backup", "the last backup is of %s", at.Format(time.RFC3339))
	default:
		x.ok("backup", "the last one is of %s", at.Format(time.RFC3339))
	}
}
