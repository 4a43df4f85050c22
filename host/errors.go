package host

import "github.com/loopbackd/loopback/fault"

// ErrRemoved is the answer to a machine whose host was removed: its key is dead for good.
var ErrRemoved = fault.New(fault.Precondition, "host_removed", "this host was removed from the control plane").
	WithHint("to bring the machine back as a new host: loopback-agent uninstall --purge, then run the installer with a new token")
