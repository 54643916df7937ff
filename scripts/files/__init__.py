"""Files that are whole or absent, byte ranges, locks, the state of a run, and how numbers and colours are shown."""
