// Package exec runs commands on hosts by the real control plane, in a process of its own, over real links and streams: on many
// simulated hosts, some of them dead, and by the real executor of an agent, which runs real commands here.
package exec
