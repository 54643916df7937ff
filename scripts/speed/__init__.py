"""How fast a model answers: with a draft model, and with fewer active experts."""
