package sinktest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
)

// Answer is what a receiver does with a request. Its zero value takes what was sent and says so.
type Answer struct {
	Wait   time.Duration // before anything
	Status int           // refuse with it; 0: take it
	Lose   bool          // take it, and let nobody hear of it
	Reject int64         // a collector: records that it says it will not have, whichever; it keeps none
}

// Mood decides how a receiver answers to these events. nil: it takes everything.
type Mood func(events []string) Answer

// Serve answers HTTPS on a listener until stop, which waits for what is under way.
func Serve(l net.Listener, cert tls.Certificate, h http.Handler) (stop func()) {
	s := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	var serving sync.WaitGroup
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		h.ServeHTTP(w, r)
	})
	serving.Go(func() { _ = s.ServeTLS(l, "", "") })
	return func() { _ = s.Close(); serving.Wait() }
}

// Webhook receives as Standard Webhooks has it.
type Webhook struct {
	*Crate
	Complain func(format string, args ...any) // of what the sender does wrong
	Most     int                              // bytes of a body; 0: any number

	mu     sync.Mutex
	secret []byte
	mood   Mood
	lost   int

	asking sync.Mutex // moods are asked one at a time
}

// Behave changes how it answers.
func (h *Webhook) Behave(m Mood) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mood = m
}

// Trust sets the secret (whsec_…) that signatures are checked with.
func (h *Webhook) Trust(secret string) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secret = key
	return err
}

// Lost is how many answers nobody heard.
func (h *Webhook) Lost() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

func (h *Webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	secret, mood := h.secret, h.mood
	h.mu.Unlock()
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if got := r.Header.Get("webhook-signature"); got != "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)) {
		h.Complain("the signature %q does not fit", got)
	}
	if at, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		h.Complain("the timestamp is %d, %v", at, err)
	}
	if h.Most > 0 && len(body) > h.Most {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	var in struct {
		Type string
		Data []json.RawMessage
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Type != "audit.entries" {
		h.Complain("the body is %.200s: %v", body, err)
	}
	events := make([]string, len(in.Data))
	for i, e := range in.Data {
		events[i] = string(e)
	}
	h.asking.Lock()
	answer := mood.to(events)
	h.asking.Unlock()
	late := time.NewTimer(answer.Wait)
	defer late.Stop()
	select {
	case <-late.C:
	case <-r.Context().Done(): // who sent it gave up; it is taken all the same
	}
	if answer.Status != 0 {
		http.Error(w, "not this", answer.Status)
		return
	}
	for _, e := range in.Data {
		if err := h.Take(e); err != nil {
			h.Complain("%v", err)
		}
	}
	if answer.Lose {
		h.mu.Lock()
		h.lost++
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
}

func (m Mood) to(events []string) Answer {
	if m == nil {
		return Answer{}
	}
	return m(events)
}

// Collector receives OpenTelemetry logs over HTTP.
type Collector struct {
	*Crate
	Complain func(format string, args ...any)
	Token    string // that it wants of a bearer
	Mood     Mood

	asking sync.Mutex
}

func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever sent it died halfway: it comes again
	}
	var in logsv1.ExportLogsServiceRequest
	if err := proto.Unmarshal(body, &in); err != nil || r.URL.Path != "/v1/logs" || r.Header.Get("Authorization") != "Bearer "+c.Token {
		c.Complain("%s %s: %v", r.URL, r.Header, err)
		return
	}
	var events []string
	for _, resource := range in.ResourceLogs {
		for _, scope := range resource.ScopeLogs {
			for _, l := range scope.LogRecords {
				events = append(events, l.Body.GetStringValue())
			}
		}
	}
	out := &logsv1.ExportLogsServiceResponse{}
	c.asking.Lock()
	answer := c.Mood.to(events)
	c.asking.Unlock()
	switch {
	case answer.Status != 0:
		w.WriteHeader(answer.Status)
		return
	case answer.Reject > 0:
		out.PartialSuccess = &logsv1.ExportLogsPartialSuccess{RejectedLogRecords: answer.Reject, ErrorMessage: "no room"}
	default:
		for _, e := range events {
			if err := c.Take([]byte(e)); err != nil {
				c.Complain("%v", err)
			}
		}
	}
	b, err := proto.Marshal(out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err != nil {
		c.Complain("%v", err)
	}
}
