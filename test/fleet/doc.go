// Package fleet simulates agents: thousands in one process, each with its own key, over real TLS, real WebSockets or
// polls, the real handshake and the real frames. Only the machine behind them is missing.
//
// An Agent enrols, links, beats, applies what it is sent in memory (checking every digest) and comes back when it was
// told to. It can be made to misbehave: lose answers, stop reading, stop beating, die without a word. Run keeps many of
// them going and counts. Control is the other side alone, a hub behind an HTTPS port with a fleet in memory, for tests
// that need no database; agents do not care whether they talk to it or to a whole control plane.
package fleet
