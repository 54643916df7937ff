"""Mutated inputs of every command: what a command does with a damaged or hostile file."""
