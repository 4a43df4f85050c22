// Command openapi is the plugin by which buf writes the API's description, from the same .proto files that the code is
// generated from: openapi.yaml for programs, and reference.html for people.
//
// Only services are described; the agents' link is no part of the public API. Comments become descriptions, the
// permission of each method stands beside it. The output depends on nothing but the input, so that a freshness check can
// compare it byte for byte.
package main

import (
	"fmt"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
)

func main() {
	protogen.Options{}.Run(func(p *protogen.Plugin) error {
		p.SupportedFeatures = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL)
		a, err := read(p)
		if err != nil {
			return err
		}
		yaml := p.NewGeneratedFile("openapi.yaml", "")
		if _, err := yaml.Write([]byte(a.yaml())); err != nil {
			return err
		}
		page, err := a.page()
		if err != nil {
			return err
		}
		html := p.NewGeneratedFile("reference.html", "")
		_, err = html.Write(page)
		return err
	})
}

// api is what is described: services in the order of the files, and every message that they use, by name.
type api struct {
	Services []service
	Messages []message
}

type service struct {
	Name    string // "TokenService"
	Comment string
	Methods []method
}

type method struct {
	Name       string
	Path       string // below /api
	Comment    string
	Permission string
	Request    string
	Response   string
	Streams    bool // the answer is a stream
	ReadOnly   bool
}

type message struct {
	Name    string
	Comment string
	Fields  []field
}

type field struct {
	Name    string // as JSON has it
	Comment string
	Type    kind
	OneOf   string
}

// kind is a type as JSON has it.
type kind struct {
	Message  string // name of a message of ours; empty: see JSON
	JSON     string // "string", "integer", "number", "boolean", "any"
	Format   string
	Repeated bool
	Map      bool
}

func read(p *protogen.Plugin) (api, error) {
	var a api
	seen := map[string]bool{}
	for _, f := range p.Files {
		if !f.Generate {
			continue
		}
		for _, s := range f.Services {
			out := service{Name: s.GoName, Comment: text(s.Comments.Leading)}
			for _, m := range s.Methods {
				permission, _ := proto.GetExtension(m.Desc.Options(), v1.E_Permission).(string)
				if permission == "" {
					return api{}, fmt.Errorf("method %s has no permission", m.Desc.FullName())
				}
				out.Methods = append(out.Methods, method{
					Name: m.GoName, Path: fmt.Sprintf("/%s/%s", s.Desc.FullName(), m.Desc.Name()), Comment: text(m.Comments.Leading),
					Permission: permission, Request: string(m.Input.Desc.Name()), Response: string(m.Output.Desc.Name()),
					Streams: m.Desc.IsStreamingServer(), ReadOnly: readOnly(m),
				})
				a.add(seen, m.Input)
				a.add(seen, m.Output)
			}
			a.Services = append(a.Services, out)
		}
		for _, m := range f.Messages {
			if m.Desc.Name() == "ErrorDetail" {
				a.add(seen, m)
			}
		}
	}
	a.sort()
	return a, nil
}
