package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

// TokenVariable is the environment variable that a token may come in.
const TokenVariable = "LOOPBACK_TOKEN"

const (
	maxTokenFile = 4096
	stdinWait    = 30 * time.Second
)

// readToken reads the token where the host needs one: from the file that was named, else from the environment, else from
// standard input.
func (r *run) readToken(fromEnvironment string) (err error) {
	if r.hasKey {
		return nil
	}
	text := fromEnvironment
	switch {
	case r.TokenFile == "-":
		text, err = r.tokenFromStdin()
	case r.TokenFile != "":
		text, err = tokenFromFile(r.TokenFile)
	case text == "":
		text, err = r.tokenFromStdin()
	}
	if err != nil {
		return err
	}
	if text = strings.TrimSpace(text); text == "" {
		if r.DryRun {
			r.step("no token was given: enrolling will need one")
			return nil
		}
		return errNoToken
	}
	if r.token, err = token.ParseSecret(text); err != nil {
		return err
	}
	if r.Anchor == (trust.AnchorHash{}) {
		r.Anchor = r.token.Anchor
	} else if r.Anchor != r.token.Anchor {
		return fault.New(fault.Invalid, "anchor_conflict", "the token was minted on another control plane than the one that is installed from").
			WithHint("mint a token on %s, or use the install command of the control plane that it was minted on", r.Endpoint)
	}
	return nil
}

func tokenFromFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.New(fault.Invalid, "token_unreadable", "the token file cannot be read").
			WithHint("check --token-file").WithCause(err)
	}
	defer f.Close()
	return readToken(f)
}

func readToken(from io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(from, maxTokenFile+1))
	if err != nil {
		return "", fault.New(fault.Invalid, "token_unreadable", "the token cannot be read").WithCause(err)
	}
	if len(b) > maxTokenFile {
		return "", fault.New(fault.Invalid, "token_unreadable", "what should be a token has more than %d bytes", maxTokenFile).
			WithHint("give the token and nothing else")
	}
	return string(b), nil
}

// tokenFromStdin gives up on somebody who holds standard input open and says nothing: as a rule they did not mean to.
func (r *run) tokenFromStdin() (string, error) {
	if r.Stdin == nil {
		return "", nil
	}
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ends with standard input, or with this process, which is about to end without a token
		text, err := readToken(r.Stdin)
		answered <- answer{text, err}
	}()
	timer := time.NewTimer(stdinWait)
	defer timer.Stop()
	select {
	case a := <-answered:
		return a.text, a.err
	case <-timer.C:
		return "", errNoToken.WithCause(fmt.Errorf("nothing came on standard input for %s", stdinWait))
	}
}

// TakeTokenFromEnvironment returns the token in the environment and wipes it there: from what this process hands on, and
// from its memory that /proc/PID/environ shows.
func TakeTokenFromEnvironment() (string, error) {
	text, ok := os.LookupEnv(TokenVariable)
	if !ok {
		return "", nil
	}
	text = strings.Clone(text)
	if err := os.Unsetenv(TokenVariable); err != nil {
		return "", fmt.Errorf("wipe the token from the environment: %w", err)
	}
	if err := wipeEnvironment(TokenVariable); err != nil {
		return "", fmt.Errorf("wipe the token from the environment: %w", err)
	}
	return text, nil
}

// wipeEnvironment overwrites a variable's value in the block that the kernel laid out at exec. Go works on copies.
func wipeEnvironment(name string) error {
	block, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return err
	}
	start, err := environmentStart()
	if err != nil {
		return err
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for at := 0; at < len(block); {
		end := bytes.IndexByte(block[at:], 0)
		if end < 0 {
			end = len(block) - at
		}
		if value, ok := bytes.CutPrefix(block[at:at+end], []byte(name+"=")); ok {
			from := start + int64(at+len(name)+1)
			if _, err := memory.WriteAt(bytes.Repeat([]byte{'x'}, len(value)), from); err != nil {
				return errors.Join(err, memory.Close())
			}
		}
		at += end + 1
	}
	return memory.Close()
}

// environmentStart is env_start of proc(5): field 50 of /proc/PID/stat. The second field may hold anything, in brackets.
func environmentStart() (int64, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const envStart = 50 - 3 // the first of these fields is the third
	if len(fields) <= envStart {
		return 0, errors.New("/proc/self/stat has too few fields")
	}
	return strconv.ParseInt(fields[envStart], 10, 64)
}
