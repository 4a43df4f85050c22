package command

import (
	"slices"
	"time"

	"github.com/loopbackd/loopback/exec"
)

// Check is a command that is built in. It changes nothing on a host.
type Check struct {
	Name        string
	Description string
	Command     exec.Command
}

const checkTimeout = 30 * time.Second

func program(name, description string, arguments ...string) Check {
	return Check{name, description, exec.Command{Arguments: arguments, Timeout: checkTimeout}}
}

func line(name, description, text string) Check {
	return Check{name, description, exec.Command{Arguments: []string{text}, Shell: true, Timeout: checkTimeout}}
}

// Checks are all that there are, by name.
var Checks = []Check{
	program("addresses", "addresses of each interface", "ip", "-brief", "address"),
	program("disk", "how full file systems are", "df", "-hPT", "-x", "tmpfs", "-x", "devtmpfs", "-x", "overlay"),
	program("inodes", "how many files file systems have room for", "df", "-hiP", "-x", "tmpfs", "-x", "devtmpfs", "-x", "overlay"),
	program("kernel", "the kernel that runs", "uname", "-srvm"),
	program("load", "how long it is up, and how busy", "uptime"),
	line("memory", "memory and swap, and what is pressed for it", "free -h 2>/dev/null || head -n 5 /proc/meminfo; cat /proc/pressure/memory 2>/dev/null; true"),
	program("ports", "what listens, and which program does", "ss", "-H", "-tulpn"),
	line("processes", "what takes most of the processors", "ps -eo pid,user,pcpu,pmem,etime,comm --sort=-pcpu | head -n 16"),
	line("reboot", "whether updates wait for a restart", `if [ -e /run/reboot-required ]; then echo "needs a restart"; cat /run/reboot-required.pkgs 2>/dev/null
elif command -v needs-restarting >/dev/null; then needs-restarting -r
else echo "no restart is asked for"; fi`),
	program("release", "the operating system", "cat", "/etc/os-release"),
	program("routes", "where packets go", "ip", "route"),
	line("time", "whether the clock is kept right", "timedatectl show --property=NTP --property=NTPSynchronized --property=Timezone --property=TimeUSec"),
	program("units", "units that failed", "systemctl", "--failed", "--no-legend", "--plain", "--no-pager"),
	line("updates", "packages that could be updated, as far as the host knows by itself", `if command -v apt-get >/dev/null; then apt-get -s -q -o Debug::NoLocking=true upgrade | grep '^Inst' || echo none
elif command -v dnf >/dev/null; then dnf -q -C check-update; [ $? -ne 1 ]
else echo "neither apt-get nor dnf is here" >&2; exit 1; fi`),
	program("users", "who is logged in", "who", "-u"),
}

// CheckNamed is a check by its name.
func CheckNamed(name string) (Check, bool) {
	i := slices.IndexFunc(Checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		return Check{}, false
	}
	return Checks[i], true
}
