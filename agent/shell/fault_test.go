package shell

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/recording"
)

// A session whose record the host's disk has no room for ends, and says so in the record; what was recorded until then is the same at both
// ends. The reserve lets the next one begin.
func TestAFullDiskEndsTheSession(t *testing.T) {
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("missing feature: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	spool, err := recording.OpenSpool(small, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	p, _, ended := session(t, func(o *Options) { o.Spool = spool })
	p.await("recorded")
	p.typing("head -c 50000000 /dev/zero | tr '\\0' x\n")
	if e := p.over(ended); !strings.HasPrefix(e.Reason, "it cannot be recorded any further") {
		t.Errorf("got %+v", e)
	}
	if n := len(p.marks); n != 1 || !strings.HasPrefix(p.marks[0], "the recording ends here") {
		t.Errorf("markers: %q", p.marks)
	}
	next, _, ended := session(t, func(o *Options) { o.Spool = spool })
	next.await("recorded")
	next.typing("echo made-$((1+1))-room; exit\n")
	next.await("made-2-room")
	next.over(ended)
}

// A host that has no terminals left says so, and the session has a record of that.
func TestAHostWithoutTerminalsSaysSo(t *testing.T) {
	if os.Getenv("LOOPBACK_WITHOUT_TERMINALS") != "" {
		p, _, ended := session(t, nil)
		p.await("there is no terminal for the session")
		if e := p.over(ended); e.Status != 126 || !strings.Contains(e.Reason, "there is no terminal") {
			t.Errorf("got %+v", e)
		}
		return
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("missing feature: a mount namespace: %s", out)
	}
	c := exec.Command("unshare", "--mount", "sh", "-ec",
		"mount -t devpts -o newinstance,ptmxmode=0666,max=1 devpts /dev/pts && { mount --bind /dev/pts/ptmx /dev/ptmx 2>/dev/null || true; } && exec 9<>/dev/ptmx && exec \"$0\" -test.run '^"+t.Name()+"$' -test.count=1", os.Args[0])
	c.Env = append(os.Environ(), "LOOPBACK_WITHOUT_TERMINALS=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is no text, and what no terminal is wide enough for, comes as it was written.
func TestBytesOfAllKindsComeAsTheyAre(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("recorded")
	p.typing("stty -opost -echo; printf 'a\\200\\377\\376\\0\\300\\257b\\355\\240\\200\\n'; head -c 10000 /dev/zero | tr '\\0' w; printf 'e''nd'\n")
	p.await("wend")
	p.typing("exit\n")
	p.over(ended)
	if seen := p.seen.Bytes(); !bytes.Contains(seen, append([]byte("a\x80\xff\xfe\x00\xc0\xafb\xed\xa0\x80\n"), bytes.Repeat([]byte("w"), 10000)...)) {
		t.Errorf("shown was %q…", seen[:min(len(seen), 600)])
	}
}

// What a user leaves behind ends with their session, though it is deaf to what a terminal says when it is gone.
func TestWhatIsLeftBehindEndsWithTheSession(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("recorded")
	p.typing("(trap '' HUP; exec sleep 1000) & echo left-$!-beh''ind\n")
	p.await("-behind")
	p.mu.Lock()
	before, _, _ := strings.Cut(p.seen.String(), "-behind")
	p.mu.Unlock()
	text := before[strings.LastIndex(before, "left-")+len("left-"):]
	pid, err := strconv.Atoi(text)
	if err != nil || unix.Kill(pid, 0) != nil {
		t.Fatalf("nothing was left behind: %q (%v)", text, err)
	}
	p.typing("exit\n")
	p.over(ended)
	if b, err := os.ReadFile("/proc/" + text + "/cmdline"); err == nil && strings.HasPrefix(string(b), "sleep") {
		t.Errorf("it goes on: %q", b)
	}
}
