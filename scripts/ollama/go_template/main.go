// Execute a Go template as Ollama would: its variables, its functions, its types, Go's own text/template.
//
// Use: go_template TEMPLATE, with {"requests": [{"messages": [...], "tools": [...], "think": true}, ...]} on stdin.
// Each is a request to Ollama's /api/chat. "think" may also be "low", "medium" or "high", or be left out; "prompt" and
// "suffix" together ask for an insertion.
//
// It prints {"texts": [...], "thinking_tags": ["...", "..."], "tool_tag": "..."}: the prompts, and the tags that Ollama
// infers from the template when the model names no parser of its own. Bad input ends in one line and exit code 1.
//
// Written after the behaviour of template/template.go, api/types.go, thinking/template.go and tools/template.go of
// https://github.com/ollama/ollama. Ollama keeps the order of properties and arguments but hands maps to the
// template, which sorts them by key, so maps are enough here.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"
)

type Request struct {
	Messages []Message `json:"messages"`
	Tools    []Tool    `json:"tools"`
	Think    any       `json:"think"`
	Prompt   string    `json:"prompt"`
	Suffix   string    `json:"suffix"`
}

type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Thinking   string     `json:"thinking"`
	Images     [][]byte   `json:"images"`
	ToolCalls  []ToolCall `json:"tool_calls"`
	ToolName   string     `json:"tool_name"`
	ToolCallID string     `json:"tool_call_id"`
}

type ToolCall struct {
	ID       string           `json:"id"`
	Function ToolCallFunction `json:"function"`
}

type ToolCallFunction struct {
	Index     int       `json:"index"`
	Name      string    `json:"name"`
	Arguments Arguments `json:"arguments"`
}

type Tool struct {
	Type     string       `json:"type"`
	Items    any          `json:"items,omitempty"`
	Function ToolFunction `json:"function"`
}

type ToolFunction struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  ToolParameters `json:"parameters"`
}

type ToolParameters struct {
	Type       string     `json:"type"`
	Defs       any        `json:"$defs,omitempty"`
	Items      any        `json:"items,omitempty"`
	Required   []string   `json:"required,omitempty"`
	Properties Properties `json:"properties"`
}

// Property has no list of required names: newer versions of Ollama have one, and a template that asks for a field
// which the reader's version lacks fails as a whole.
type Property struct {
	AnyOf       []Property    `json:"anyOf,omitempty"`
	Type        PropertyType  `json:"type,omitempty"`
	Items       any           `json:"items,omitempty"`
	Description string        `json:"description,omitempty"`
	Enum        []any         `json:"enum,omitempty"`
	Properties  *PropertyTree `json:"properties,omitempty"`
}

type Arguments map[string]any
type Properties map[string]Property
type PropertyType []string

// PropertyTree is what a property's own properties are: not a map but something with ToMap.
type PropertyTree struct{ properties map[string]Property }

func (tree *PropertyTree) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &tree.properties)
}

func (tree PropertyTree) MarshalJSON() ([]byte, error) { return json.Marshal(tree.properties) }

func (tree *PropertyTree) ToMap() map[string]Property {
	if tree == nil {
		return nil
	}
	return tree.properties
}

func (tree *PropertyTree) Len() int { return len(tree.ToMap()) }

func (types *PropertyType) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*types = PropertyType{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(types))
}

func (types PropertyType) MarshalJSON() ([]byte, error) {
	if len(types) == 1 {
		return json.Marshal(types[0])
	}
	return json.Marshal([]string(types))
}

func (types PropertyType) String() string {
	if len(types) == 1 {
		return types[0]
	}
	if len(types) == 0 {
		return ""
	}
	return fmt.Sprint([]string(types))
}

func (arguments Arguments) String() string {
	return asJSON(map[string]any(arguments), arguments == nil)
}
func (properties Properties) String() string {
	return asJSON(map[string]Property(properties), properties == nil)
}
func (tool Tool) String() string             { return asJSON(tool, false) }
func (function ToolFunction) String() string { return asJSON(function, false) }

// asJSON returns a value as JSON, {} for one that is empty: of a nil map Go would make null.
func asJSON(value any, empty bool) string {
	if empty {
		return "{}"
	}
	text, _ := json.Marshal(value)
	return string(text)
}

// typeScript names a property's type as TypeScript does.
func typeScript(property Property) string {
	var names []string
	for _, choice := range property.AnyOf {
		names = append(names, typeScript(choice))
	}
	known := map[string]string{"string": "string", "number": "number", "integer": "number", "boolean": "boolean",
		"array": "any[]", "object": "Record<string, any>", "null": "null"}
	if len(property.AnyOf) == 0 {
		for _, name := range property.Type {
			if known[name] == "" {
				name = "any"
			} else {
				name = known[name]
			}
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "any"
	}
	return strings.Join(names, " | ")
}

var functions = template.FuncMap{
	"json":          func(value any) string { return asJSON(value, false) },
	"currentDate":   func(...string) string { return time.Now().Format(time.DateOnly) },
	"yesterdayDate": func(...string) string { return time.Now().AddDate(0, 0, -1).Format(time.DateOnly) },
	"toTypeScriptType": func(value any) string {
		switch property := value.(type) {
		case Property:
			return typeScript(property)
		case *Property:
			if property != nil {
				return typeScript(*property)
			}
		}
		return "any"
	},
}

// collate joins all system texts, and neighbours of one role (save tool messages, which keep their names) into one.
func collate(messages []Message) (string, []*Message) {
	var system []string
	var collated []*Message
	for i := range messages {
		message := messages[i] // a copy: the request stays as it is
		message.Role = strings.ToLower(message.Role)
		if message.Role == "system" {
			system = append(system, message.Content)
		}
		if n := len(collated); n > 0 && collated[n-1].Role == message.Role && message.Role != "tool" {
			collated[n-1].Content += "\n\n" + message.Content
		} else {
			collated = append(collated, &message)
		}
	}
	return strings.Join(system, "\n\n"), collated
}

// values returns what the template sees of a request.
func values(request Request) (map[string]any, error) {
	level, isLevel := request.Think.(string)
	on, isBool := request.Think.(bool)
	if request.Think != nil && !isBool && level != "low" && level != "medium" && level != "high" {
		return nil, fmt.Errorf("think: expected true, false, low, medium or high, found %v", request.Think)
	}
	seen := map[string]any{"Response": "", "Think": on || isLevel, "ThinkLevel": level, "IsThinkSet": request.Think != nil}
	if request.Prompt != "" && request.Suffix != "" {
		seen["Prompt"], seen["Suffix"] = request.Prompt, request.Suffix
		return seen, nil
	}
	seen["System"], seen["Messages"] = collate(request.Messages)
	seen["Tools"] = request.Tools
	return seen, nil
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("go_template: expected one argument, the template, found %d", len(os.Args)-1)
	}
	source, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	// missingkey=zero as in template/template.go.
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(string(source))
	if err != nil {
		return err
	}
	if parsed.Tree == nil || !mentions(parsed.Root, "Messages") {
		return fmt.Errorf("template: expected one that uses .Messages, found none")
	}
	var input struct{ Requests []Request }
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		return fmt.Errorf("requests: expected JSON, found %v", err)
	}
	opening, closing := thinkingTags(parsed.Root)
	output := map[string]any{"thinking_tags": []string{opening, closing}, "tool_tag": toolTag(parsed.Root)}
	texts := []string{}
	for _, request := range input.Requests {
		seen, err := values(request)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := parsed.Execute(&text, seen); err != nil {
			return err
		}
		texts = append(texts, text.String())
	}
	output["texts"] = texts
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false) // the prompts are full of < and >
	return encoder.Encode(output)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}
