// Package stream carries the bytes of one session (a command's output, a shell, a file) between a host and the control
// plane, across any number of connections, without losing, doubling or reordering one.
//
// A session has an End on the host and one in the control plane. Either has up to MaxChannels byte streams in each
// direction, numbered by their users: a Writer here feeds the Reader of the same number there. Ends outlive connections.
// A connection is a Carrier: anything that moves messages in order while it stands. When it breaks, the host dials anew,
// both Ends attach to the new one, tell each other what they have, and go on at the very byte.
//
//	Writer ──▶ ring ──▶ frames ══ carrier ══▶ buffer ──▶ Reader
//	             ▲                               │
//	             └────────── consumed, limit ────┘
//
// # What may be forgotten
//
// A writer keeps every byte until its reader says that it was consumed, which is the reader's own word (Ack), not the
// arrival of the byte: a control plane that stores output acknowledges what is stored. So whichever side dies without its
// memory, the other one still has what is missing. A new End takes up where the old one's durable offset was (ReaderAt);
// a new writer writes the same bytes again from the first, and those that the peer has received are dropped here.
//
// What is kept is bounded: a ring holds at most Window bytes, then Write blocks. A reader grants at most Window bytes
// past what it was asked for, so that a reader that is slow or gone costs its peer's writer a wait, never memory.
// Nothing is dropped for being late: who would rather lose than wait (a terminal without viewers) decides so before Write.
//
// # Frames
//
// A message is a row of frames, each a header of 12 bytes (big endian) and at most MaxPayload bytes:
//
//	type 1 · channel 1 · length 2 · offset 8 · payload
//
//	resume  first in each direction. Offset: the limit of channels that are not named. Payload: for each known channel
//	        in that direction number, flags, received, consumed and limit (1+1+8+8+8): go on at received, forget
//	        below consumed
//	data    bytes that begin at offset
//	end     the channel ends at offset
//	ack     consumed up to offset; payload: flags, limit (1+8). Flag 1: the end was consumed too
//	stop    the reader wants no more; what was or will be written is dropped
//	ping    to be answered by pong with the same offset
//	bye     the session is over; the payload is why: kind, code and message, empty when all is well
//
// Data that is not where the last ended, or is past the granted limit, is no accident on a carrier that keeps order: it
// ends the session (ErrMalformed). A writer that is asked for bytes which it has been told to forget ends it, too (ErrGone).
//
// # Liveness
//
// A carrier that brings nothing for a while is asked (ping), sooner where something is on the way, and given up when it
// does not answer: a connection into a black hole costs seconds. Reading from the carrier never waits for a Reader, so a
// slow one does not look dead.
//
// The package opens no socket and starts no goroutine of its own: Attachment.Run, Carry and Keep run on their caller's.
package stream
