"""GGUF files and imatrices: headers, and dropping experts inside them."""
