"""The errors of this package, sorted by who can fix them.

The command line prints each as one line and exits with its `exit_code`.
"""

from typing import ClassVar


class OnnxSparseError(Exception):
    """Base of every error that this package raises on purpose. Its text names the file, node or option, and what to do."""

    exit_code: ClassVar[int] = 1


class ModelError(OnnxSparseError):
    """The model, or another input file, cannot be used as it is. The file has to change."""


class ParamError(OnnxSparseError):
    """The caller asked for something that is invalid, or impossible on this model. The call has to change."""

    exit_code = 2


class PassError(OnnxSparseError):
    """A pass failed, or left an invalid model. The text names the pass and the node."""


class BackendError(OnnxSparseError):
    """A runtime or a cost backend refused the model."""
