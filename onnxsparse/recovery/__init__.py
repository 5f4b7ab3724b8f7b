"""Accuracy without training: pruning that repairs what it prunes, and puts zeros where they cost least."""
