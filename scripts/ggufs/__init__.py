"""GGUF files and imatrices: headers, dropping experts inside them, padding their MLPs."""
