package tenant

import "time"

// Deployment is the control plane as a whole: the one row above all organisations.
type Deployment struct {
	ID              string // "dep_…"
	Epoch           uint32 // grows by one with every restored backup
	CreatedAt       time.Time
	BootstrapHash   []byte // keyed hash of the code that makes the first administrator's key; nil: there is none
	BootstrapUsedAt time.Time
	EpochBegan      int64 // feed position at which a restore began the epoch; 0 in the first
}
