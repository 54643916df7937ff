"""Files that are whole or absent, byte ranges, locks, state of a run, command lines, how numbers and colours look."""
