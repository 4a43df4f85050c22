package tenant

import "time"

// Deployment is one installation of the control plane, whatever the number of its replicas.
type Deployment struct {
	ID              string // "dep_…"
	Epoch           uint32 // 1 at first; one more each time a backup is restored
	CreatedAt       time.Time
	BootstrapHash   []byte // of the one-time code that makes the first administrator's key; nil: no code is open
	BootstrapUsedAt time.Time
	EpochBegan      int64 // feed position at which a restore began the epoch; 0 in the first
}
