package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/server/file"
	"github.com/loopbackd/loopback/server/limit"
	"github.com/loopbackd/loopback/shell"
)

// Files is loopback.v1.FileService.
type Files struct{ Service *file.Service }

// StartFilePut begins to put a file on a host.
func (h Files) StartFilePut(ctx context.Context, r *connect.Request[v1.StartFilePutRequest]) (*connect.Response[v1.FileTransfer], error) {
	m := r.Msg
	t, err := h.Service.Start(ctx, file.Request{Workspace: m.GetWorkspace(), Host: m.GetHost(), RequestID: m.GetRequestId(), Task: noun.Task{
		Kind: noun.ToHost, Path: m.GetPath(), Size: m.GetSize(), SHA256: m.GetSha256(), Mode: m.GetMode(), DefaultMode: m.GetDefaultMode(), Owner: m.GetOwner(), Fresh: m.GetFresh(),
	}})
	return answer(fileMessage(t), err)
}

// StartFileGet begins to get a file from a host.
func (h Files) StartFileGet(ctx context.Context, r *connect.Request[v1.StartFileGetRequest]) (*connect.Response[v1.FileTransfer], error) {
	t, err := h.Service.Start(ctx, file.Request{Workspace: r.Msg.GetWorkspace(), Host: r.Msg.GetHost(), RequestID: r.Msg.GetRequestId(),
		Task: noun.Task{Kind: noun.FromHost, Path: r.Msg.GetPath(), Size: -1}})
	return answer(fileMessage(t), err)
}

// StartDiagnosis begins to have a host tell of itself.
func (h Files) StartDiagnosis(ctx context.Context, r *connect.Request[v1.StartDiagnosisRequest]) (*connect.Response[v1.FileTransfer], error) {
	t, err := h.Service.Start(ctx, file.Request{Workspace: r.Msg.GetWorkspace(), Host: r.Msg.GetHost(), RequestID: r.Msg.GetRequestId(),
		Task: noun.Task{Kind: noun.OfHost, Size: -1}})
	return answer(fileMessage(t), err)
}

// GetFileTransfer is one transfer.
func (h Files) GetFileTransfer(ctx context.Context, r *connect.Request[v1.GetFileTransferRequest]) (*connect.Response[v1.FileTransfer], error) {
	t, err := h.Service.Get(ctx, r.Msg.GetTransfer())
	return answer(fileMessage(t), err)
}

// ListFileTransfers is those that the caller may see.
func (h Files) ListFileTransfers(ctx context.Context, r *connect.Request[v1.ListFileTransfersRequest]) (*connect.Response[v1.ListFileTransfersResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetWorkspace(), noun.Query{Page: page(r.Msg.GetPage())})
	return answer(&v1.ListFileTransfersResponse{Items: each(items, fileMessage), NextPageToken: next}, err)
}

// CancelFileTransfer ends a transfer before its time.
func (h Files) CancelFileTransfer(ctx context.Context, r *connect.Request[v1.CancelFileTransferRequest]) (*connect.Response[v1.FileTransfer], error) {
	t, err := h.Service.Cancel(ctx, r.Msg.GetTransfer())
	return answer(fileMessage(t), err)
}

func fileMessage(t noun.Transfer) *v1.FileTransfer {
	return &v1.FileTransfer{
		Id: t.ID, Name: t.Name, Labels: t.Labels, CreatedAt: timestamp(t.CreatedAt), UpdatedAt: timestamp(t.UpdatedAt), Revision: t.Revision, Scope: scope(t.Scope),
		HostId: t.HostID, Host: t.HostName, Kind: string(t.Task.Kind), State: string(t.State), Size: t.Task.Size, Sha256: t.Task.SHA256, Mode: t.Task.Mode,
		Owner: t.Task.Owner, Offset: t.Task.Offset, ErrorCode: t.ErrorCode, Error: t.Error, Hint: t.Hint, Actor: t.Actor.ID, EndedAt: timestamp(t.EndedAt), Attempt: t.Attempt,
	}
}

// Bytes is /file/v1/{transfer}: PUT brings the bytes of a file, GET fetches them, from ?offset= on; ?kind= is the transfer's. What came
// of it is read by GetFileTransfer: an answer to GET that broke off, or whose length is not known before, says nothing of its end.
func Bytes(service *file.Service, authenticate Authenticator, o Options) http.Handler {
	if o.Observe == nil {
		o.Observe = func(Call) {}
	}
	if o.Limits == nil {
		o.Limits = limit.New(limit.Options{})
	}
	b := &fileBytes{edge: &edge{authenticate: authenticate, options: o, permissions: permissionsByProcedure()}, files: service}
	return b.edge.identify(http.HandlerFunc(b.serve))
}

type fileBytes struct {
	edge  *edge
	files *file.Service
}

// fileProcedures are what the kinds need: the procedure by whose permission callers are let in.
var fileProcedures = map[noun.Kind]string{
	noun.ToHost:   loopbackv1connect.FileServiceStartFilePutProcedure,
	noun.FromHost: loopbackv1connect.FileServiceStartFileGetProcedure,
	noun.OfHost:   loopbackv1connect.FileServiceStartDiagnosisProcedure,
}

// byteSilence is how long a caller may bring or take nothing.
const byteSilence = time.Minute

func (b *fileBytes) serve(w http.ResponseWriter, r *http.Request) {
	out := &byteWriter{w: w, control: http.NewResponseController(w)}
	err := b.carry(out, r)
	switch {
	case err == nil:
	case out.begun:
		panic(http.ErrAbortHandler) // the caller sees that it broke off
	default:
		refuse(w, err)
	}
}

func (b *fileBytes) carry(w *byteWriter, r *http.Request) error {
	q := r.URL.Query()
	kind := noun.Kind(q.Get("kind"))
	procedure, ok := fileProcedures[kind]
	want := http.MethodGet
	if kind == noun.ToHost {
		want = http.MethodPut
	}
	offset, err := strconv.ParseInt(q.Get("offset"), 10, 64)
	if q.Get("offset") == "" {
		offset, err = 0, nil
	}
	if !ok || err != nil || r.Method != want {
		return fault.New(fault.Invalid, "request_invalid", "the request is not valid").WithHint("PUT with kind=put; GET with kind=get or kind=diagnose; offset is a number")
	}
	if !sameOrigin(r) {
		return fault.New(fault.Denied, "origin_foreign", "another site's page may not ask for this")
	}
	spec := connect.Spec{Procedure: procedure, StreamType: connect.StreamTypeBidi}
	actor, err := b.edge.who(r.Context(), spec, r.Header)
	if err != nil && !errors.Is(err, access.ErrStepUp) { // who began it has shown a passkey then
		return err
	}
	ctx := access.WithActor(r.Context(), actor)
	done, err := b.edge.options.Limits.Begin(ctx, string(actor.Kind)+" "+actor.ID, true)
	if err != nil {
		return err
	}
	defer done()
	ctx, end := b.edge.untilStopping(ctx)
	defer end()
	ctx, end = b.edge.untilRefused(ctx, spec, r.Header)
	defer end()
	// What waits for the caller ends with the call.
	defer context.AfterFunc(ctx, func() {
		_ = w.control.SetReadDeadline(time.Unix(1, 0))
		_ = w.control.SetWriteDeadline(time.Unix(1, 0))
	})()
	if kind == noun.ToHost {
		t, err := b.files.Send(ctx, r.PathValue("transfer"), offset, timelyReader{r.Body, w.control})
		if err != nil {
			return stopped(ctx, err)
		}
		return w.json(fileMessage(t))
	}
	_, err = b.files.Receive(ctx, r.PathValue("transfer"), offset, func(t noun.Transfer) (io.Writer, error) {
		h := w.w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(t.Task.Path)}))
		if t.Task.Size >= 0 {
			h.Set("Content-Length", strconv.FormatInt(t.Task.Size-t.Task.Offset, 10))
		}
		w.begun = true
		return w, nil
	})
	return stopped(ctx, err)
}

// byteWriter writes to a caller who has to take it in time.
type byteWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (w *byteWriter) Write(p []byte) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(byteSilence))
	n, err := w.w.Write(p)
	if err != nil {
		err = fmt.Errorf("the caller takes no more: %w", err)
	}
	return n, err
}

func (w *byteWriter) json(m *v1.FileTransfer) error {
	b, err := jsonCodec{"json"}.Marshal(m)
	if err != nil {
		return err
	}
	w.w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b)
	return err
}

// timelyReader reads from a caller who has to bring it in time.
type timelyReader struct {
	io.Reader
	control *http.ResponseController
}

func (r timelyReader) Read(p []byte) (int, error) {
	_ = r.control.SetReadDeadline(time.Now().Add(byteSilence))
	return r.Reader.Read(p)
}

// refuse answers with why no bytes come or are taken, as the shells' WebSocket does.
func refuse(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	status := map[fault.Kind]int{fault.Invalid: 400, fault.Unauthenticated: 401, fault.Denied: 403, fault.NotFound: 404, fault.Precondition: 409,
		fault.Conflict: 409, fault.Exhausted: 429, fault.Unavailable: 503}[f.Kind]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(shell.EncodeOver(f))
}
