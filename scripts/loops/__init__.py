"""Loops and tool calls: frozen prompts, their answers, the class of each answer, and the rates per file."""
