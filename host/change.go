package host

import "time"

// Change is one step in the life of a host, as those who watch see it. The hosts are shared: nobody changes them.
type Change struct {
	Before *Host // nil: it came
	After  *Host // nil: it is gone, removed or deleted
	At     time.Time
}

// Brief is h without what is long in its Inventory (disks, addresses, boot and machine id): what a replica keeps of every
// host in memory.
func (h Host) Brief() Host {
	h.Inventory.Disks, h.Inventory.Addresses = nil, nil
	h.Inventory.BootID, h.Inventory.MachineID = "", ""
	return h
}
