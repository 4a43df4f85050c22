// Package link is the hub: every agent's control link ends here.
//
// A link is born in package wire, sealed and with nobody behind it yet. Its first frame says who it is:
//
//	           Enrol                          Hello, proof holds
//	nascent ──────────▶ answered, then closed        │
//	   │                                             ▼
//	   │ proof fails, nothing said in time       welcomed ──▶ superseded   a newer link of the same host is here
//	   ▼                                             │   ├──▶ silent       three heartbeats missed
//	refused                                          │   ├──▶ slow         would not read for the write timeout
//	                                                 ▼   └──▶ expelled     removed, or its token's hosts were expelled
//	                                               gone
//
// Enrolment and proof are done on goroutines of their own, bounded in number, while the link's read goroutine waits: it
// keeps its shallow stack, a link's frames stay in order, and a flood is answered by TCP's own backpressure.
//
// Presence is kept in memory. A host whose link ends stays online for the reconnect window and only then is offline, so
// that neither a short cut nor a restart of ours marks a host offline; after our own start the window is open for every
// host that the database shows online. Links of one host are ordered by (boot id, connection number): a late "gone"
// never beats a newer "here".
//
// What a host says is compared with what is Known of it. Only a difference becomes an Observation. Observations are
// merged by host, the newest wins, and handed to the Observer in batches, one at a time; while the database is away they
// wait, at most one a host. A heartbeat that changes nothing touches neither the database nor, beyond the answer, memory.
//
// What a host should be leaves as sections. A link's outbox holds no frames but marks ("settings changed"), so it cannot
// grow: what is sent is looked up when the link is ready to take it, and a value that was overtaken meanwhile is never
// sent. One value a section is unanswered at a time. The frame is the delta from what the agent holds where that value is
// still remembered, else the section whole; both are encoded once for all hosts that see the same. A section that exceeds
// a frame goes out in parts, up to section.MaxSize; an agent of a build that knows no parts keeps what it has, and the
// section shows as failed with that reason.
//
// When the hub has more to do than it can serve it says so: a hello or an enrolment over the admission rate is refused
// with a time to return, and those times are spread at the rate that can be served.
package link
