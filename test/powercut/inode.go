package powercut

import (
	"context"
	"maps"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// inode is a node as the kernel sees it. The tree is the disk's own; go-fuse's is a cache of it.
type inode struct {
	fs.Inode
	disk *Disk
	node *node
}

var (
	_ fs.NodeLookuper  = (*inode)(nil)
	_ fs.NodeReaddirer = (*inode)(nil)
	_ fs.NodeCreater   = (*inode)(nil)
	_ fs.NodeMkdirer   = (*inode)(nil)
	_ fs.NodeUnlinker  = (*inode)(nil)
	_ fs.NodeRmdirer   = (*inode)(nil)
	_ fs.NodeRenamer   = (*inode)(nil)
	_ fs.NodeLinker    = (*inode)(nil)
	_ fs.NodeOpener    = (*inode)(nil)
	_ fs.NodeReader    = (*inode)(nil)
	_ fs.NodeWriter    = (*inode)(nil)
	_ fs.NodeFsyncer   = (*inode)(nil)
	_ fs.NodeGetattrer = (*inode)(nil)
	_ fs.NodeSetattrer = (*inode)(nil)
	_ fs.NodeStatfser  = (*inode)(nil)
)

// enter takes the lock; without power it fails, and the lock is not taken.
func (i *inode) enter() (leave func(), failed syscall.Errno) {
	i.disk.mu.Lock()
	if i.disk.off {
		i.disk.mu.Unlock()
		return nil, syscall.EIO
	}
	return i.disk.mu.Unlock, 0
}

func (i *inode) child(ctx context.Context, n *node, out *fuse.EntryOut) *fs.Inode {
	attributes(n, &out.Attr)
	return i.NewInode(ctx, &inode{disk: i.disk, node: n}, fs.StableAttr{Mode: n.mode & syscall.S_IFMT, Ino: n.number})
}

func attributes(n *node, a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink = n.number, n.mode, uint32(max(n.links, 1))
	a.Size, a.Blocks, a.Blksize = uint64(len(n.live)), uint64(len(n.live)+511)/512, block
	a.SetTimes(nil, &n.mtime, &n.mtime)
}

func (i *inode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, failed
	}
	defer leave()
	n := i.node.names[name]
	if n == nil {
		return nil, syscall.ENOENT
	}
	return i.child(ctx, n, out), 0
}

func (i *inode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, failed
	}
	defer leave()
	var list []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(i.node.names)) {
		n := i.node.names[name]
		list = append(list, fuse.DirEntry{Name: name, Mode: n.mode & syscall.S_IFMT, Ino: n.number})
	}
	return fs.NewListDirStream(list), 0
}

func (i *inode) add(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, failed
	}
	defer leave()
	if i.node.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := i.disk.make(mode)
	n.links = 1
	i.node.names[name] = n
	return i.child(ctx, n, out), 0
}

func (i *inode) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n, failed := i.add(ctx, name, syscall.S_IFREG|mode&0o7777, out)
	return n, nil, fuse.FOPEN_KEEP_CACHE, failed
}

func (i *inode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return i.add(ctx, name, syscall.S_IFDIR|mode&0o7777, out)
}

func (i *inode) Unlink(_ context.Context, name string) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	n := i.node.names[name]
	if n == nil {
		return syscall.ENOENT
	}
	n.links--
	delete(i.node.names, name)
	return 0
}

func (i *inode) Rmdir(_ context.Context, name string) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	n := i.node.names[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	delete(i.node.names, name)
	return 0
}

func (i *inode) Rename(_ context.Context, name string, parent fs.InodeEmbedder, to string, flags uint32) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	const noReplace, exchange = 1, 2
	into := parent.(*inode).node
	n, old := i.node.names[name], into.names[to]
	switch {
	case n == nil:
		return syscall.ENOENT
	case flags&exchange != 0:
		return syscall.EINVAL
	case old != nil && flags&noReplace != 0:
		return syscall.EEXIST
	case old != nil && len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	if old != nil {
		old.links--
	}
	delete(i.node.names, name)
	into.names[to] = n
	return 0
}

func (i *inode) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, failed
	}
	defer leave()
	if i.node.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := target.(*inode).node
	n.links++
	i.node.names[name] = n
	return i.child(ctx, n, out), 0
}

func (i *inode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, 0, failed
	}
	leave()
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (i *inode) Read(_ context.Context, _ fs.FileHandle, into []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return nil, failed
	}
	defer leave()
	n := 0
	if at < int64(len(i.node.live)) {
		n = copy(into, i.node.live[at:])
	}
	return fuse.ReadResultData(into[:n]), 0
}

func (i *inode) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	leave, failed := i.enter()
	if failed != 0 {
		return 0, failed
	}
	defer leave()
	i.node.write(data, at)
	return uint32(len(data)), 0
}

// Fsync makes a file's content, or a folder's names, safe.
func (i *inode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	if i.node.names != nil {
		i.node.safeNames = maps.Clone(i.node.names)
		return 0
	}
	i.node.synced()
	return 0
}

func (i *inode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	attributes(i.node, &out.Attr)
	return 0
}

func (i *inode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	leave, failed := i.enter()
	if failed != 0 {
		return failed
	}
	defer leave()
	if size, ok := in.GetSize(); ok {
		i.node.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		i.node.mode = i.node.mode&syscall.S_IFMT | mode&0o7777
	}
	if at, ok := in.GetMTime(); ok {
		i.node.mtime = at
	}
	attributes(i.node, &out.Attr)
	return 0
}

// Statfs says that there is room: programs that watch their disk look.
func (i *inode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	const blocks, files = 4 << 20, 1 << 20
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: files, Ffree: files, Bsize: block, Frsize: block, NameLen: 255}
	return 0
}
