package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"strings"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"kind":   kindHTML,
	"anchor": func(s string) string { return strings.Trim(strings.ReplaceAll(s, "/", "-"), "-") },
	"example": func(path string) string {
		return "curl -sS --cacert \"$LOOPBACK_CA_FILE\" -H \"Authorization: Bearer $LOOPBACK_API_KEY\" -H 'Content-Type: application/json' -d '{}' \"$LOOPBACK_URL/api" + path + "\""
	},
}).Parse(pageText))

func (a api) page() ([]byte, error) {
	var b bytes.Buffer
	err := page.Execute(&b, a)
	return b.Bytes(), err
}

func kindHTML(k kind) template.HTML {
	var s string
	switch {
	case k.Message != "":
		n := template.HTMLEscapeString(k.Message)
		s = `<a href="#` + n + `">` + n + `</a>`
	case k.Format != "":
		s = k.JSON + " (" + k.Format + ")"
	default:
		s = k.JSON
	}
	switch {
	case k.Map:
		s = "map of " + s
	case k.Repeated:
		s = "list of " + s
	}
	return template.HTML(s) // made of names in the descriptors only
}
