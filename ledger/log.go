package ledger

import "time"

// Log is a deployment's log as its store keeps it. There is one for each epoch: restoring a backup begins another, since
// what was signed after the backup was taken is lost and must not be signed differently.
type Log struct {
	Number     int64 // the epoch
	Origin     string
	Began      int64 // position before its first leaf
	Size       int64 // leaves that are in the tree
	Root       Hash  // over them
	Checkpoint string
	Signed     int64 // size of Checkpoint: it may lie behind Size for a moment
	SignedAt   time.Time
	Previous   string   // last checkpoint of the log before; empty: this is the first
	Handovers  []string // checkpoints by which the deployment's log keys gave way to each other, in order
	Pruned     int64    // entries up to this position may have lost their bodies
	LeaseOwner string   // replica that numbers leaves
	LeaseUntil time.Time
	CreatedAt  time.Time
}
