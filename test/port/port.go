// Package port finds ports for programs that a test starts and tells where to listen.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

const lowest = 12_000

// Free is a port of this host that nobody listens on. The kernel would name one, too, of those that it hands to whoever asks
// for any: another program may be given it before ours listens. So it is one below them.
func Free(host string) (int, error) {
	above := 32_768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(b), &above)
	}
	if above <= lowest { // the kernel hands them all out
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return 0, err
		}
		return l.Addr().(*net.TCPAddr).Port, l.Close()
	}
	var err error
	for range 100 {
		n := lowest + rand.IntN(above-lowest)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n))); err == nil {
			return n, l.Close()
		}
	}
	return 0, fmt.Errorf("no port of %s is free: %w", host, err)
}

// FreeAddress is host with such a port.
func FreeAddress(host string) (string, error) {
	n, err := Free(host)
	return net.JoinHostPort(host, strconv.Itoa(n)), err
}
