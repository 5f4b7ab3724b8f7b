"""Output of commands: facts, step reports and comparisons as tables and JSON."""
