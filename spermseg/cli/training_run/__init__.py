"""A training as the command runs it: its folder, its record, and what it leaves."""
