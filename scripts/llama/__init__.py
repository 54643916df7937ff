"""The llama.cpp tools: where they are, how they are run, and its server."""
