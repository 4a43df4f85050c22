package config

import (
	"bytes"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/fault"
)

const preamble = `# What this host's agent may know and do. Nothing that the control plane sends can change this file.
# See loopback-agent --help; after a change: systemctl restart loopback-agent

`

// edit is the text of the file after c's values were put into old. Where old is not valid it is an error: a file that
// was edited wrongly is for a person to mend, not for us to overwrite.
func (c Config) edit(name string, old []byte) ([]byte, error) {
	held, err := Parse(name, old)
	if err != nil {
		return nil, err
	}
	doc := &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}
	fresh := true
	if root, err := document(name, old); err == nil && root != nil {
		fresh = false
		if err := yaml.Unmarshal(old, doc); err != nil {
			return nil, err
		}
	}
	changed := put(doc.Content[0], topSettings, held, c, fresh)
	allow := child(doc.Content[0], "allow")
	if allow == nil || isNull(allow) {
		allow = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	if put(allow, allowSettings, held, c, fresh) {
		changed = true
		setChild(doc.Content[0], "allow", allow)
	}
	if !changed && !fresh {
		return old, nil
	}
	var out bytes.Buffer
	if fresh {
		out.WriteString(preamble)
	}
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	again, err := Parse(name, out.Bytes())
	if err != nil {
		return nil, err // c itself was not valid
	}
	if !reflect.DeepEqual(again.normal(), c.normal()) {
		return nil, fault.New(fault.Internal, "config_unsaved", "%s would not say what it should; write it by hand", name)
	}
	return out.Bytes(), nil
}

// normal makes equal what means the same.
func (c Config) normal() Config {
	d := Default()
	if c.Transport == "" {
		c.Transport = d.Transport
	}
	if c.KeyRotation == 0 {
		c.KeyRotation = d.KeyRotation
	}
	for _, l := range []*[]string{&c.Endpoints, &c.NoProxy, &c.Allow.Modules} {
		if len(*l) == 0 {
			*l = nil
		}
	}
	return c
}

// put writes into a mapping those settings that differ between held and want, all of them into a fresh one.
func put(m *yaml.Node, known []setting, held, want Config, fresh bool) (changed bool) {
	for _, s := range known {
		if s.show == nil {
			continue
		}
		now := s.show(want)
		if reflect.DeepEqual(s.show(held), now) && !fresh {
			continue
		}
		if now == nil {
			changed = dropChild(m, s.name) || changed
			continue
		}
		n := &yaml.Node{}
		if err := n.Encode(now); err != nil {
			continue // strings, lists and booleans always encode
		}
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		if before := child(m, s.name); before != nil {
			n.HeadComment, n.LineComment, n.FootComment = before.HeadComment, before.LineComment, before.FootComment
		}
		setChild(m, s.name, n)
		changed = true
	}
	return changed
}

func childIndex(m *yaml.Node, name string) int {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return i
		}
	}
	return -1
}

func child(m *yaml.Node, name string) *yaml.Node {
	if i := childIndex(m, name); i >= 0 {
		return m.Content[i+1]
	}
	return nil
}

func setChild(m *yaml.Node, name string, value *yaml.Node) {
	if i := childIndex(m, name); i >= 0 {
		m.Content[i+1] = value
		return
	}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, value)
}

func dropChild(m *yaml.Node, name string) bool {
	i := childIndex(m, name)
	if i < 0 {
		return false
	}
	m.Content = slices.Delete(m.Content, i, i+2)
	return true
}
