"""What the work on a run looks like from outside: the machine it needs, its steps and logs, what they have made."""
