package recording

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/fault"
)

// WriteCast writes events as an asciicast v3 (https://docs.asciinema.org/manual/asciicast/v3/), which terminals, browsers and
// asciinema's tools play. Bytes that are no UTF-8 become U+FFFD, as a terminal shows them; a character that two events share is
// in the later one. idle, where it is not 0, is the longest pause.
func WriteCast(w io.Writer, events iter.Seq2[Event, error], idle time.Duration) error {
	out := bufio.NewWriter(w)
	var last, skipped time.Duration
	var rest []byte // of a character
	for e, err := range events {
		if err != nil {
			return err
		}
		if e.Kind == Begin {
			if err := writeCastHeader(out, e.Data); err != nil {
				return err
			}
			continue
		}
		var text string
		switch e.Kind {
		case Output, Input:
			if e.Kind == Output {
				e.Data = append(rest, e.Data...)
				whole := wholeCharacters(e.Data)
				rest = append([]byte(nil), e.Data[whole:]...)
				e.Data = e.Data[:whole]
			}
			if len(e.Data) == 0 {
				continue
			}
			text = string(e.Data)
		case Exit:
			var end Ending
			_ = json.Unmarshal(e.Data, &end)
			text = strconv.Itoa(end.Status)
		default:
			text = string(e.Data)
		}
		if pause := e.At - skipped - last; idle > 0 && pause > idle {
			skipped += pause - idle
		}
		at := e.At - skipped
		line, err := castText(text)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "[%.6f, %q, %s]\n", (at - last).Seconds(), string(rune(e.Kind)), line); err != nil {
			return err
		}
		last = at
	}
	return out.Flush()
}

func writeCastHeader(w io.Writer, data []byte) error {
	var h Header
	if err := json.Unmarshal(data, &h); err != nil {
		return fault.New(fault.Internal, "recording_header", "the recording's header cannot be read").WithCause(err)
	}
	type term struct {
		Cols int    `json:"cols"`
		Rows int    `json:"rows"`
		Type string `json:"type,omitempty"`
	}
	b, err := json.Marshal(struct {
		Version   int    `json:"version"`
		Term      term   `json:"term"`
		Timestamp int64  `json:"timestamp"`
		Title     string `json:"title"`
	}{3, term{h.Cols, h.Rows, h.Term}, h.Start.Unix(), fmt.Sprintf("%s@%s by %s, session %s", h.User, h.Host, h.Who, h.Session)})
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\n", b)
	}
	return err
}

func castText(s string) (string, error) {
	b, err := json.Marshal(s) // replaces what is no UTF-8
	return string(b), err
}

// wholeCharacters is how much of b does not end within a character of UTF-8.
func wholeCharacters(b []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(b); back++ {
		c := b[len(b)-back]
		if utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-back:]) {
				return len(b) - back
			}
			break
		}
	}
	return len(b)
}

// From makes what comes before a time come at once, so that a player begins there with the screen as it was. The header stays
// first.
func From(events iter.Seq2[Event, error], from time.Duration) iter.Seq2[Event, error] {
	if from <= 0 {
		return events
	}
	return func(yield func(Event, error) bool) {
		for e, err := range events {
			e.At = max(0, e.At-from)
			if !yield(e, err) {
				return
			}
		}
	}
}
