"""Where a model becomes integers, and on which scales."""
