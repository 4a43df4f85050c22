package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

const (
	attempts  = 4
	firstWait = 500 * time.Millisecond
)

// fetcher is how the TUF client gets metadata. It keeps what it got: that is what the mirror serves.
type fetcher struct {
	ctx    context.Context // of the copy: the client's interface has none
	client *http.Client
	files  map[string][]byte // by the last part of their path
}

// DownloadFile fetches a file of at most this many bytes.
func (f *fetcher) DownloadFile(url string, limit int64, _ time.Duration) (file []byte, err error) {
	err = try(f.ctx, func() error {
		file, err = f.once(url, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := release.CheckMetadata(file); err != nil {
		return nil, errUnverified.WithCause(fmt.Errorf("%s: %w", url, err))
	}
	f.files[path.Base(url)] = file
	return file, nil
}

func (f *fetcher) once(url string, limit int64) ([]byte, error) {
	answer, err := get(f.ctx, f.client, url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: answer.StatusCode, URL: url}
	}
	if answer.StatusCode != http.StatusOK {
		return nil, status(answer, url)
	}
	file, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect_failed", "the connection broke").WithCause(err)
	}
	if int64(len(file)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is longer than %d bytes", url, limit)}
	}
	return file, nil
}

func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fault.New(fault.Invalid, "url_invalid", "%q is not an address to copy from", url).WithCause(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fault.Of(ctx.Err())
		}
		return nil, fault.New(fault.Unavailable, "unreachable", "%s cannot be reached: %s", request.URL.Host, errors.Unwrap(err)).WithCause(err)
	}
	return answer, nil
}

func status(answer *http.Response, url string) error {
	kind := fault.Precondition
	if answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests {
		kind = fault.Unavailable
	}
	return fault.New(kind, "http_status", "%s is answered with %s", url, answer.Status).
		WithHint("a proxy may answer in the control plane's place; or see its log")
}

// try repeats what may pass.
func try(ctx context.Context, do func() error) error {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		err := do()
		kind := fault.KindOf(err)
		if err == nil || attempt == attempts || kind != fault.Unavailable && kind != fault.Timeout || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait *= 2
	}
}
