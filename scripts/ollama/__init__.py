"""What Ollama reads: its template, params and Modelfile."""
