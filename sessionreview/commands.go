package sessionreview

import (
	"bytes"
	"iter"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/recording"
)

// Commanded is how often a command was given in a session, in the form that reports compare: see Normal.
type Commanded struct {
	SessionID string
	Scope     access.Scope
	Principal string
	HostID    string
	At        time.Time // the session's end
	Command   string
	Times     int64
}

// Bounds of what is kept of one session.
const (
	MaxCommands = 200 // distinct
	maxCommand  = 120 // bytes of one
	maxLine     = 4 << 10
)

// prompt is a line as a shell shows it: who and where, "$" or "#", and what was typed. What a prompt of one's own looks like is not
// known: a report lessens guessing, it is no evidence; that is the recording.
var prompt = regexp.MustCompile(`^(?:\([^)]*\) ?)?\[?[a-z_][a-z0-9_.-]*@[A-Za-z0-9_.-]+[: ][^$#]*\]?[$#] +(\S.*)$`)

// Commands are what was typed at prompts, by Normal form, as the recording of a terminal shows it.
func Commands(events iter.Seq2[recording.Event, error]) (map[string]int64, error) {
	out := map[string]int64{}
	var s screen
	for e, err := range events {
		if err != nil {
			return out, err
		}
		if e.Kind != recording.Output {
			continue
		}
		s.write(e.Data, func(line string) {
			m := prompt.FindStringSubmatch(line)
			if m == nil {
				return
			}
			c := Normal(m[1])
			if _, ok := out[c]; c != "" && (ok || len(out) < MaxCommands) {
				out[c]++
			}
		})
	}
	return out, nil
}

// screen is the line that a terminal writes, as far as plain lines go: carriage returns, backspaces, and what escape sequences delete.
type screen struct {
	line   []byte
	at     int
	escape []byte // of a sequence that has begun
}

func (s *screen) write(b []byte, done func(string)) {
	for _, c := range b {
		switch {
		case len(s.escape) > 0:
			s.escape = append(s.escape, c)
			s.control()
		case c == 0x1b:
			s.escape = append(s.escape[:0], c)
		case c == '\n':
			done(strings.TrimRight(strings.ToValidUTF8(string(s.line), "?"), " "))
			s.line, s.at = s.line[:0], 0
		case c == '\r':
			s.at = 0
		case c == '\b':
			s.at = max(0, s.at-1)
		case c < ' ' || c == 0x7f:
		default:
			if s.at < len(s.line) {
				s.line[s.at] = c
			} else if len(s.line) < maxLine {
				s.line = append(s.line, c)
			}
			s.at = min(s.at+1, len(s.line))
		}
	}
}

// control takes in an escape sequence once it is whole.
func (s *screen) control() {
	e := s.escape
	last := e[len(e)-1]
	switch {
	case len(e) == 2 && (last == '[' || last == ']' || last == 'P' || last == '(' || last == ')'):
		return
	case e[1] == '[' && (last < 0x40 || last > 0x7e) && len(e) < 64:
		return
	case (e[1] == ']' || e[1] == 'P') && last != 0x07 && !bytes.HasSuffix(e, []byte("\x1b\\")) && len(e) < maxLine:
		return
	}
	if e[1] == '[' {
		switch {
		case last == 'K' && (len(e) == 3 || e[2] == '0'):
			s.line = s.line[:s.at]
		case last == 'P': // deletes characters
			s.line = append(s.line[:s.at], s.line[min(len(s.line), s.at+count(e)):]...)
		case last == 'C':
			s.at = min(len(s.line), s.at+count(e))
		case last == 'D':
			s.at = max(0, s.at-count(e))
		case last == '@': // makes room
			s.line = append(s.line[:s.at], append(bytes.Repeat([]byte{' '}, min(count(e), maxLine)), s.line[s.at:]...)...)
		}
	}
	s.escape = s.escape[:0]
}

func count(e []byte) int {
	n := 0
	for _, c := range e[2 : len(e)-1] {
		if c < '0' || c > '9' {
			return 1
		}
		n = min(n*10+int(c-'0'), maxLine)
	}
	return max(1, n)
}

var (
	assigned = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	word     = regexp.MustCompile(`^[A-Za-z][A-Za-z_-]*$`)
	flag     = regexp.MustCompile(`^--?[A-Za-z0-9][A-Za-z0-9-]*`)
	space    = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
)

// verbs are programs whose next word says what they do.
var verbs = map[string]bool{"systemctl": true, "service": true, "apt": true, "apt-get": true, "dnf": true, "yum": true, "docker": true, "podman": true, "kubectl": true,
	"git": true, "ip": true, "nft": true, "journalctl": false, "loopback": true, "zpool": true, "zfs": true, "lvm": true, "nmcli": true, "firewall-cmd": false, "snap": true, "crm": true, "pcs": true}

// Normal is a command in the form in which two that do the same look the same: the program without its folder, its verb and its flags;
// what they are about is "…". So that nothing secret is kept, no value is: not of flags, not of variables.
func Normal(command string) string {
	var out []string
	for i, part := range strings.Split(command, "|") {
		if i > 0 {
			out = append(out, "|")
		}
		program, verb, dots := "", false, false
		for _, w := range space.FindAllString(part, -1) {
			switch {
			case program == "" && assigned.MatchString(w), w == "&&", w == ";", w == "sudo" && program == "", program == "" && flag.MatchString(w):
			case program == "":
				program = w[strings.LastIndexByte(w, '/')+1:]
				if len(program) > 40 || !utf8.ValidString(program) {
					program = "…"
				}
				out = append(out, program)
			case !verb && verbs[program] && word.MatchString(w):
				verb = true
				out = append(out, w)
			case flag.MatchString(w):
				out = append(out, flag.FindString(w))
			case !dots:
				dots = true
				out = append(out, "…")
			}
		}
	}
	text := strings.Join(out, " ")
	if len(text) > maxCommand {
		text = strings.ToValidUTF8(text[:maxCommand], "") + "…"
	}
	return text
}
