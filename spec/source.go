package spec

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxDepth bounds the nesting of a spec; the schema needs 5.
const maxDepth = 16

// source is a YAML file with the place of every value and key.
type source struct {
	file     string
	lines    []string
	mistakes []Mistake
	value    any
	// places maps a JSON pointer to where its value stands; keyPlaces to where
	// its key stands.
	places, keyPlaces map[string]place
}

type place struct{ line, column int }

// readSource parses YAML into the JSON data model. Anchors, aliases, tags,
// merge keys and several documents are refused: a spec says what it means.
func readSource(file string, data []byte) *source {
	s := &source{file: file, lines: strings.Split(string(data), "\n"),
		places: map[string]place{}, keyPlaces: map[string]place{}}
	if len(data) > MaxSize {
		s.add(place{1, 1}, fmt.Sprintf("the file has %d bytes, at most %d are read", len(data), MaxSize), "split the deployment")
		return s
	}
	for i, line := range s.lines {
		indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		if t := strings.IndexByte(indent, '\t'); t >= 0 {
			s.add(place{i + 1, t + 1}, "a tab indents this line; YAML allows spaces only", "replace the tab by spaces")
		}
	}
	if len(s.mistakes) > 0 {
		return s
	}
	f, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil {
			s.add(place{syntax.Token.Position.Line, syntax.Token.Position.Column}, syntax.Message, "")
		} else {
			s.add(place{1, 1}, err.Error(), "")
		}
		return s
	}
	switch {
	case len(f.Docs) == 0 || f.Docs[0].Body == nil:
		s.add(place{1, 1}, "the file is empty", "start with apiVersion: "+APIVersion)
	case len(f.Docs) > 1:
		s.add(at(f.Docs[1].Body), "a second document begins here; one file is one deployment", "put it into a file of its own")
	default:
		s.value = s.convert(f.Docs[0].Body, "", 0)
	}
	return s
}

// at is where a node begins; a mapping begins at its first key.
func at(n ast.Node) place {
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			return at(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return at(m.Key)
	}
	if n == nil || n.GetToken() == nil {
		return place{1, 1}
	}
	p := n.GetToken().Position
	return place{p.Line, p.Column}
}

func (s *source) add(p place, message, fix string) {
	s.mistakes = append(s.mistakes, Mistake{Line: p.line, Column: p.column, Message: message, Fix: fix})
}

// convert turns a YAML node into the JSON data model, recording places.
func (s *source) convert(n ast.Node, pointer string, depth int) any {
	if _, seen := s.places[pointer]; !seen {
		s.places[pointer] = at(n)
	}
	if depth > maxDepth {
		s.add(at(n), fmt.Sprintf("nested more than %d levels deep", maxDepth), "")
		return nil
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		m := make(map[string]any, len(n.Values))
		for _, kv := range n.Values {
			s.convertPair(m, kv, pointer, depth)
		}
		return m
	case *ast.MappingValueNode:
		m := make(map[string]any, 1)
		s.convertPair(m, n, pointer, depth)
		return m
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for i, v := range n.Values {
			list = append(list, s.convert(v, fmt.Sprintf("%s/%d", pointer, i), depth+1))
		}
		return list
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode:
		return n.Value
	case *ast.FloatNode:
		return n.Value
	case *ast.BoolNode:
		return n.Value
	case *ast.NullNode:
		return nil
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		s.add(at(n), "anchors, aliases and merge keys are not part of a spec", "write the value out")
	case *ast.TagNode:
		s.add(at(n), "YAML tags are not part of a spec", "remove the tag")
	default:
		s.add(at(n), fmt.Sprintf("a %s can't stand here", strings.ToLower(n.Type().String())), "")
	}
	return nil
}

func (s *source) convertPair(m map[string]any, kv *ast.MappingValueNode, pointer string, depth int) {
	key, ok := kv.Key.(*ast.StringNode)
	if !ok {
		s.add(at(kv.Key), "this key is not a plain word", "put it in quotes, or remove what makes it special")
		return
	}
	child := pointer + "/" + escapePointer(key.Value)
	if _, twice := m[key.Value]; twice {
		first := s.keyPlaces[child]
		s.add(at(kv.Key), fmt.Sprintf("%q stands twice, first in line %d", key.Value, first.line), "remove one of them")
		return
	}
	s.keyPlaces[child] = at(kv.Key)
	m[key.Value] = s.convert(kv.Value, child, depth+1)
}

func escapePointer(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

func pointerOf(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteByte('/')
		b.WriteString(escapePointer(t))
	}
	return b.String()
}

// placeOf finds the nearest enclosing place of a pointer.
func (s *source) placeOf(pointer string) place {
	for {
		if p, ok := s.places[pointer]; ok {
			return p
		}
		i := strings.LastIndexByte(pointer, '/')
		if i < 0 {
			return place{1, 1}
		}
		pointer = pointer[:i]
	}
}

// lineOf is the line of a workload's name.
func (s *source) lineOf(workload int) int {
	return s.placeOf(fmt.Sprintf("/workloads/%d/name", workload)).line
}

// err returns all mistakes in the order of the file, or nil.
func (s *source) err() error {
	if len(s.mistakes) == 0 {
		return nil
	}
	sort.SliceStable(s.mistakes, func(i, j int) bool {
		a, b := s.mistakes[i], s.mistakes[j]
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	// What is wrong with an entry is wrong with each of its replicas.
	seen := map[Mistake]bool{}
	once := slices.DeleteFunc(slices.Clone(s.mistakes), func(m Mistake) bool {
		again := seen[m]
		seen[m] = true
		return again
	})
	return &Error{File: s.file, Mistakes: once, lines: s.lines}
}

// drain is err, and forgets the mistakes, so that a deployment can be resolved
// again with other facts.
func (s *source) drain() error {
	err := s.err()
	s.mistakes = nil
	return err
}
