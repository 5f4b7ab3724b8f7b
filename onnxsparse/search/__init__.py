"""Search for the combination of channel cuts, zeros and widths that meets a budget at the least loss."""
