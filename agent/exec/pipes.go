package exec

import (
	"io"
	"os"
	"sync"

	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/stream"
)

// stdin is the command's: a pipe that the session feeds, or nothing.
func stdin(o Order, end *stream.End) (*os.File, error) {
	if !o.Stdin {
		return os.Open(os.DevNull)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() { // ends with the command, whose end of the pipe it fills, or with the session
		from := end.Reader(exec.StdinNumber)
		_, _ = io.Copy(w, from)
		_ = w.Close()
		from.Stop()
	}()
	return r, nil
}

// outputs are the pipes that a command writes to, on their way into the session.
type outputs struct {
	ends    [2]*os.File // the command's
	ours    [2]*os.File
	copying sync.WaitGroup
}

func newOutputs(end *stream.End, way *way) (*outputs, error) {
	o := &outputs{}
	for i := range o.ends {
		r, w, err := os.Pipe()
		if err != nil {
			o.release()
			return nil, err
		}
		o.ours[i], o.ends[i] = r, w
	}
	for i, channel := range []byte{exec.StdoutNumber, exec.StderrNumber} {
		o.copying.Go(func() {
			w := end.Writer(channel)
			buffer := make([]byte, 64<<10)
			for {
				n, err := o.ours[i].Read(buffer)
				if n > 0 {
					way.wrote(i, buffer[:n])
					if _, failed := w.Write(buffer[:n]); failed != nil {
						break // the session is over; the command gets SIGPIPE
					}
				}
				if err != nil {
					break
				}
			}
			_ = o.ours[i].Close()
			_ = w.Close()
		})
	}
	return o, nil
}

// release closes the ends that the command has its own copies of.
func (o *outputs) release() {
	for _, f := range o.ends {
		if f != nil {
			_ = f.Close()
		}
	}
}

// wait waits until all that was written is on its way.
func (o *outputs) wait() { o.copying.Wait() }
