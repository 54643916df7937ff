"""Gates: what must be true of a release folder before it is public."""
