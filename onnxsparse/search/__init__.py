"""Search for the combination of channel cuts, zeros and widths that meets a budget at the least loss."""

from onnxsparse.search.api import Effort, search

__all__ = ["Effort", "search"]
