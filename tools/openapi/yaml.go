package main

import (
	"fmt"
	"strconv"
	"strings"
)

const head = `# Written by tools/openapi from api/loopback/v1/*.proto; edit those.
openapi: 3.1.0
info:
  title: Loopback
  version: v1
  description: >-
    Every method is a POST of one JSON object to its path, answered by one JSON object. Send an API key as
    "Authorization: Bearer lbk_…". Unset fields may be left out of requests; answers hold every field. A field that
    does not exist is refused. 64-bit integers are strings. An error has an HTTP status, a code, a message, and in its
    details an ErrorDetail with a stable code, a hint, and the fields that are wrong. Methods without side effects can
    also be called by GET, as the Connect protocol lays down. The same methods speak gRPC and gRPC-Web.
servers:
  - url: /api
security:
  - apiKey: []
`

const tail = `    Error:
      type: object
      properties:
        code:
          type: string
          description: "RPC code: invalid_argument, not_found, permission_denied …"
        message:
          type: string
        details:
          type: array
          items:
            type: object
            properties:
              type:
                type: string
                description: "loopback.v1.ErrorDetail"
              value:
                type: string
                format: byte
                description: "The detail, encoded as protobuf."
              debug:
                $ref: "#/components/schemas/ErrorDetail"
  responses:
    Error:
      description: "It failed; nothing was changed unless the code is deadline_exceeded or unavailable."
      content:
        application/json:
          schema:
            $ref: "#/components/schemas/Error"
  securitySchemes:
    apiKey:
      type: http
      scheme: bearer
      bearerFormat: "lbk_…"
`

func quoted(s string) string { return strconv.Quote(s) }

func (a api) yaml() string {
	var b strings.Builder
	line := func(depth int, format string, args ...any) {
		b.WriteString(strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format+"\n", args...)
	}
	b.WriteString(head)
	line(0, "tags:")
	for _, s := range a.Services {
		line(1, "- name: %s", s.Name)
		line(2, "description: %s", quoted(s.Comment))
	}
	line(0, "paths:")
	for _, s := range a.Services {
		for _, m := range s.Methods {
			media := "application/json"
			if m.Streams {
				media = "application/connect+json"
			}
			line(1, "%s:", quoted(m.Path))
			line(2, "post:")
			line(3, "tags: [%s]", s.Name)
			line(3, "operationId: %s_%s", s.Name, m.Name)
			line(3, "description: %s", quoted(strings.TrimSpace(m.Comment+" Needs the permission "+m.Permission+".")))
			line(3, "x-permission: %s", m.Permission)
			if m.Permission == "bootstrap.redeem" {
				line(3, "security: []")
			}
			line(3, "requestBody:")
			line(4, "required: true")
			line(4, "content:")
			line(5, "%s:", media)
			line(6, "schema:")
			line(7, "$ref: %s", quoted("#/components/schemas/"+m.Request))
			line(3, "responses:")
			line(4, "\"200\":")
			line(5, "description: %s", answer(m))
			line(5, "content:")
			line(6, "%s:", media)
			line(7, "schema:")
			line(8, "$ref: %s", quoted("#/components/schemas/"+m.Response))
			line(4, "default:")
			line(5, "$ref: \"#/components/responses/Error\"")
		}
	}
	line(0, "components:")
	line(1, "schemas:")
	for _, m := range a.Messages {
		line(2, "%s:", m.Name)
		line(3, "type: object")
		line(3, "additionalProperties: false")
		if m.Comment != "" {
			line(3, "description: %s", quoted(m.Comment))
		}
		if len(m.Fields) == 0 {
			continue
		}
		line(3, "properties:")
		for _, f := range m.Fields {
			line(4, "%s:", f.Name)
			description := f.Comment
			if f.OneOf != "" {
				description = strings.TrimSpace(description + " At most one of the fields of " + f.OneOf + " is set.")
			}
			if description != "" {
				line(5, "description: %s", quoted(description))
			}
			depth := 5
			switch {
			case f.Type.Map:
				line(5, "type: object")
				line(5, "additionalProperties:")
				depth = 6
			case f.Type.Repeated:
				line(5, "type: array")
				line(5, "items:")
				depth = 6
			}
			switch {
			case f.Type.Message != "":
				line(depth, "$ref: %s", quoted("#/components/schemas/"+f.Type.Message))
			case f.Type.JSON == "any" && depth == 6:
				line(depth, "{}")
			case f.Type.JSON == "any":
				if description == "" {
					line(depth, "description: %s", quoted("Any JSON."))
				}
			default:
				line(depth, "type: %s", f.Type.JSON)
				if f.Type.Format != "" {
					line(depth, "format: %s", f.Type.Format)
				}
			}
		}
	}
	b.WriteString(tail)
	return b.String()
}

func answer(m method) string {
	if m.Streams {
		return quoted("A stream, in the envelopes of the Connect protocol.")
	}
	return quoted("Done.")
}
