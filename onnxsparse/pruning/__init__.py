"""Which weights to zero: candidates and why others are not, importance, and selection up to a target."""
