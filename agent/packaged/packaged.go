// Package packaged is what a deb or rpm of the agent lays down, and where: the one place that the packages' maker and the
// agent's own installer both know.
//
//	/usr/lib/loopback/loopback-agent                  the program, as packaged
//	/usr/bin/loopback-agent                           link to the version that runs, for people
//	/usr/lib/systemd/system/loopback-agent.service    the unit
//	/usr/share/loopback/root.json                     the releases' root: what later versions are verified by
//	/usr/share/loopback/agent.yaml                    settings that a host begins with
//	/usr/share/loopback/ca.pem                        the control plane's CA, where the package was made for one
//	/etc/loopback                                     an empty folder
//
// None of it is ever written to by the agent, so that the package manager finds its files as it left them. What runs is
// below /opt/loopback, where the package's scripts have the program put itself (`loopback-agent install --packaged`):
// versions that the agent fetched by itself stand there beside the package's, and neither takes the other away.
package packaged

import (
	_ "embed"
	"strings"
)

// Paths of what a package lays down.
const (
	Program  = "/usr/lib/loopback/loopback-agent"
	Link     = "/usr/bin/loopback-agent"
	Unit     = "/usr/lib/systemd/system/loopback-agent.service"
	Root     = "/usr/share/loopback/root.json"
	Settings = "/usr/share/loopback/agent.yaml"
	CA       = "/usr/share/loopback/ca.pem"
)

// Running is the program that the unit starts.
const Running = "/opt/loopback/current/bin/loopback-agent"

//go:embed loopback-agent.service
var unit string

// UnitText is the unit that starts this program.
func UnitText(program string) string { return strings.ReplaceAll(unit, "@PROGRAM@", program) }
