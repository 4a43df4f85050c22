// Package e2e holds the tests that use everything at once: real machines with systemd as process 1 (package test/lab),
// the real programs (package controlplane below), the served install script, the command line.
//
// Each test has a network, a control plane and machines of its own, booted together, and goes through what happens to
// them in order. What takes time there is waiting for the product to notice, so the tests run beside each other.
package e2e
