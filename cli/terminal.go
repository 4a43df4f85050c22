package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"

	"github.com/loopbackd/loopback/fault"
)

func isTerminal(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }

// ask reads one line of an answer, unseen where it is a secret and somebody types it. It gives up when ctx ends.
func (a *app) ask(ctx context.Context, question string, secret bool) (string, error) {
	fmt.Fprint(a.Err, clean(question))
	read := func() (string, error) { return bufio.NewReader(a.In).ReadString('\n') }
	if f, ok := a.In.(*os.File); ok && secret && isTerminal(f) {
		before, err := term.GetState(int(f.Fd()))
		if err != nil {
			return "", fmt.Errorf("hide what is typed: %w", err)
		}
		defer func() {
			_ = term.Restore(int(f.Fd()), before)
			fmt.Fprintln(a.Err)
		}()
		read = func() (string, error) {
			b, err := term.ReadPassword(int(f.Fd()))
			return string(b), err
		}
	}
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // nothing wakes a reader of a terminal: after Ctrl-C this one ends with the process
		line, err := read()
		got <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case one := <-got:
		return one.line, one.err
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return "", fault.Of(ctx.Err())
	}
}
