package storage

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A primary that loses its power sends nothing, not even a reset: the kernel is told how long to wait.
func TestConnectionsToPostgresNoticeAMachineThatIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dialPostgres(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(name int) (value int) {
		t.Helper()
		if e := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		return value
	}
	if got := option(unix.TCP_USER_TIMEOUT); got != int(silence.Milliseconds()) {
		t.Errorf("what is sent may be unconfirmed for %d ms, want %s", got, silence)
	}
	if idle, every, count := option(unix.TCP_KEEPIDLE), option(unix.TCP_KEEPINTVL), option(unix.TCP_KEEPCNT); idle+every*count > int(silence.Seconds()) {
		t.Errorf("silence is noticed after %d s and %d times %d s, want %s", idle, count, every, silence)
	}
}
