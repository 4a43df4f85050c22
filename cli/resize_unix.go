//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// onResize calls do whenever our terminal has another size, until the function that it returns is called.
func onResize(do func()) func() {
	came, over := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(came, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-came:
				do()
			case <-over:
				return
			}
		}
	}()
	return func() {
		signal.Stop(came)
		close(over)
	}
}
