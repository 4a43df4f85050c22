package wire

import (
	"net/http"
)

// ServeStream is the door of a stream, by WebSocket or polling. Which session it is for, and by what right, the peer says
// in its first sealed message; the name in the path only finds the replica that holds it.
func (s *Server) ServeStream(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		s.ServePoll(w, r)
		return
	}
	s.ServeLink(w, r)
}

// Resumes tells whether a request goes on with a polled link that has a replica of its own, wherever its path points.
func Resumes(r *http.Request) bool {
	return r.Method == http.MethodPost && r.Header.Get(headerLink) != ""
}
