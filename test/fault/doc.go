// Package fault breaks things under a running control plane and looks at what is left. The control plane is the real
// program in a process of its own, the agents speak the real protocol with real keys over real connections, the
// connections are cut and the process is killed for good.
//
// Every test prints the seed of its choices. LOOPBACK_SEED repeats one; LOOPBACK_SOAK=1 runs the sizes that are promised
// in place of the slices that fit into an ordinary test run.
package fault
