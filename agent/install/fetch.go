package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

const (
	fetchAttempts = 4
	fetchTimeout  = 30 * time.Second // of one attempt
)

// fetcher is how the TUF client gets its files: bounded in size and time, tried again where that may help, and checked
// for what its parser would stumble over.
type fetcher struct {
	ctx    context.Context // of the installation: the client's interface has none
	from   source
	folder string // where a bundle's metadata lies
	client *http.Client
	clock  func() time.Time
	detail func(string, ...any)
	date   time.Time // of the control plane, with the last answer
	at     time.Time // here, when it came
}

// DownloadFile fetches a file of at most this many bytes.
func (f *fetcher) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	wait := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		file, err := f.once(url, limit)
		if err == nil {
			if err := release.CheckMetadata(file); err != nil {
				return nil, errUnverified.WithCause(fmt.Errorf("%s: %w", url, err))
			}
			return file, nil
		}
		if kind := fault.KindOf(err); attempt == fetchAttempts || kind != fault.Unavailable && kind != fault.Timeout || f.ctx.Err() != nil {
			return nil, err
		}
		f.detail("%v; trying again", err)
		timer := time.NewTimer(wait)
		select {
		case <-f.ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
		wait *= 2
	}
}

func (f *fetcher) once(url string, limit int64) ([]byte, error) {
	if f.from == aBundle {
		return f.read(path.Base(url), limit)
	}
	ctx, cancel := context.WithTimeout(f.ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errNoEndpoint.WithCause(err)
	}
	f.detail("GET %s", url)
	answer, err := f.client.Do(request)
	if err != nil {
		return nil, unreachable(err, request.URL.Host)
	}
	defer answer.Body.Close()
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		f.date, f.at = date, f.clock()
	}
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: answer.StatusCode, URL: url}
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return nil, fault.New(fault.Unavailable, "http_status", "%s answers %s", f.from, answer.Status).WithHint("see its log, or what stands before it")
	case answer.StatusCode != http.StatusOK:
		return nil, fault.New(fault.Precondition, "http_status", "what answers is not %s: %s", f.from, answer.Status).
			WithHint("check the address; a proxy or a login page may answer in its place")
	}
	file, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err != nil {
		return nil, unreachable(err, request.URL.Host)
	}
	if int64(len(file)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is longer than %d bytes", url, limit)}
	}
	return file, nil
}

// unreachable is what stood in the way. What the way's own code found has its code already; the rest happened on a
// connection that stood.
func unreachable(err error, address string) error {
	var known *fault.Error
	var network net.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		return fault.Of(err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return fault.New(fault.Timeout, "connect_timeout", "%s stopped answering", address).
			WithHint("something on the way may drop long answers; run this again, it goes on from what is there").WithCause(err)
	default:
		return fault.New(fault.Unavailable, "connect_failed", "the connection to %s broke", address).
			WithHint("something on the way cuts connections; run this again").WithCause(err)
	}
}
