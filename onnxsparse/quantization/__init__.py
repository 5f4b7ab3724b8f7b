"""From floats to integers: targets, where scales go, which they are, and how good the result is."""
