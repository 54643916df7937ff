// The tags that Ollama infers from a template: what thinking/template.go and tools/template.go look for.
package main

import (
	"strings"
	"text/template/parse"
)

// children returns the nodes directly below one, in the order of the source.
func children(node parse.Node) []parse.Node {
	branch := func(b *parse.BranchNode) []parse.Node {
		nodes := []parse.Node{b.Pipe, b.List}
		if b.ElseList != nil {
			nodes = append(nodes, b.ElseList)
		}
		return nodes
	}
	var nodes []parse.Node
	switch n := node.(type) {
	case *parse.ListNode:
		nodes = n.Nodes
	case *parse.IfNode:
		nodes = branch(&n.BranchNode)
	case *parse.RangeNode:
		nodes = branch(&n.BranchNode)
	case *parse.WithNode:
		nodes = branch(&n.BranchNode)
	case *parse.ActionNode:
		nodes = []parse.Node{n.Pipe}
	case *parse.TemplateNode:
		if n.Pipe != nil {
			nodes = []parse.Node{n.Pipe}
		}
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			nodes = append(nodes, command)
		}
	case *parse.CommandNode:
		nodes = n.Args
	}
	return nodes
}

// mentions reports whether a node or one below it is the field .NAME.
func mentions(node parse.Node, name string) bool {
	if field, ok := node.(*parse.FieldNode); ok {
		return field.Ident[0] == name
	}
	for _, child := range children(node) {
		if mentions(child, name) {
			return true
		}
	}
	return false
}

// thinkingTags returns the texts that begin and end the innermost list with .Thinking in a range over .Messages.
func thinkingTags(root parse.Node) (opening, closing string) {
	var walk func(node parse.Node, list *parse.ListNode, messages bool)
	walk = func(node parse.Node, list *parse.ListNode, messages bool) {
		switch n := node.(type) {
		case *parse.ListNode:
			list = n
		case *parse.RangeNode:
			messages = mentions(n.Pipe, "Messages")
		case *parse.FieldNode:
			if n.Ident[0] == "Thinking" && messages && list != nil {
				if text, ok := list.Nodes[0].(*parse.TextNode); ok {
					opening = strings.TrimSpace(string(text.Text))
				}
				if text, ok := list.Nodes[len(list.Nodes)-1].(*parse.TextNode); ok {
					closing = strings.TrimSpace(string(text.Text))
				}
			}
		}
		for _, child := range children(node) {
			walk(child, list, messages)
		}
	}
	walk(root, nil, false)
	return opening, closing
}

// toolTag returns the first text under the first "if" that asks for .ToolCalls, up to a brace.
func toolTag(node parse.Node) string {
	if condition, ok := node.(*parse.IfNode); ok {
		for _, command := range condition.Pipe.Cmds {
			for _, argument := range command.Args {
				if field, ok := argument.(*parse.FieldNode); ok && field.Ident[len(field.Ident)-1] == "ToolCalls" {
					tag, _, _ := strings.Cut(strings.TrimSpace(firstText(condition.List)), "{")
					return tag
				}
			}
		}
	}
	for _, child := range children(node) {
		if tag := toolTag(child); tag != "" {
			return tag
		}
	}
	return ""
}

// firstText returns the first text in the order of the source, "" where there is none.
func firstText(node parse.Node) string {
	if text, ok := node.(*parse.TextNode); ok {
		return string(text.Text)
	}
	for _, child := range children(node) {
		if text := firstText(child); text != "" {
			return text
		}
	}
	return ""
}
