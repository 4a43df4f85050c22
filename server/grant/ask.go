package grant

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/webhook"
)

// question is what a webhook is sent, and verdict what it answers: {"allow": true, "message": "…"} with status 200.
type question struct {
	Type      string    `json:"type"` // "grant.requested"
	Timestamp time.Time `json:"timestamp"`
	Data      asked     `json:"data"`
}

type asked struct {
	Grant        string `json:"grant"`
	SubjectKind  string `json:"subjectKind"`
	SubjectID    string `json:"subjectId"`
	SubjectName  string `json:"subjectName"`
	RoleID       string `json:"roleId"`
	RoleName     string `json:"roleName"`
	Organisation string `json:"organisationId,omitempty"`
	Project      string `json:"projectId,omitempty"`
	Workspace    string `json:"workspaceId,omitempty"`
	Hosts        string `json:"hosts,omitempty"`
	Duration     string `json:"duration"` // seconds: "3600s"
	Reason       string `json:"reason"`
	Ticket       string `json:"ticket,omitempty"`
}

type verdict struct {
	Allow   *bool  `json:"allow"`
	Message string `json:"message"`
}

// ask has the policy's webhook decide. Whatever keeps it from saying yes is a no, and recorded as such.
func (s *Service) ask(ctx context.Context, p grant.Policy, g grant.Grant) grant.Answer {
	out := grant.Answer{At: s.now()}
	v, status, err := s.call(ctx, p, g)
	out.Status = status
	switch {
	case err != nil:
		out.Message = bounded("the webhook did not allow it: " + err.Error())
		s.log.WarnContext(ctx, "a webhook that decides on grants did not answer", "policy", p.ID, "grant", g.ID, "error", err)
	default:
		out.Allowed, out.Message = *v.Allow, bounded(v.Message)
	}
	return out
}

func bounded(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "\uFFFD")
	if len(text) > grant.MaxComment {
		text = strings.ToValidUTF8(text[:grant.MaxComment], "")
	}
	return text
}

func (s *Service) call(ctx context.Context, p grant.Policy, g grant.Grant) (v verdict, status int, err error) {
	sealed, ok := s.seal.Open(p.ID, p.Sealed)
	if !ok {
		return v, 0, errors.New("its secret was sealed with another key; write the policy anew")
	}
	key, err := webhook.Key(sealed)
	if err != nil {
		return v, 0, err
	}
	now := s.now().UTC()
	body, err := json.Marshal(question{"grant.requested", now, asked{
		g.ID, string(g.Subject.Kind), g.Subject.ID, g.Who, g.RoleID, g.RoleName, g.Scope.Organisation, g.Scope.Project, g.Scope.Workspace, g.Hosts,
		fmt.Sprintf("%ds", int64(g.Duration/time.Second)), g.Reason, g.Ticket,
	}})
	if err != nil {
		return v, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, grant.WebhookAnswer)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Terms.Webhook, bytes.NewReader(body))
	if err != nil {
		return v, 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "loopbackd")
	webhook.Sign(r.Header, key, id.New("msg", now), now, body)
	c, err := client(p)
	if err != nil {
		return v, 0, err
	}
	defer c.CloseIdleConnections()
	res, err := c.Do(r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return v, 0, fmt.Errorf("it did not answer within %s", fault.Span(grant.WebhookAnswer))
	case err != nil:
		return v, 0, errors.Unwrap(err) // without the address, which may hold a secret
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return v, res.StatusCode, fmt.Errorf("its answer did not end within %s", fault.Span(grant.WebhookAnswer))
	case err != nil:
		return v, res.StatusCode, errors.New("its answer was cut off")
	case res.StatusCode != http.StatusOK:
		return v, res.StatusCode, fmt.Errorf("it answered %s", res.Status)
	}
	if err := json.Unmarshal(text, &v); err != nil || v.Allow == nil {
		return v, res.StatusCode, errors.New(`its answer is not {"allow": true or false, "message": "…"}`)
	}
	return v, res.StatusCode, nil
}

// client follows no redirection, which would take the question elsewhere.
func client(p grant.Policy) (*http.Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.CA != "" {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM([]byte(p.CA)) {
			return nil, errors.New("the policy's CA holds no PEM certificate")
		}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
