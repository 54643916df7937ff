"""Cards: what is written about a release from its records, and the front matter of the Hub."""
