"""What can go wrong, by who can mend it. The CLI prints one line of these and exits with `exit_code`."""

from typing import ClassVar


class OnnxSparseError(Exception):
    """Base of every error this package raises on purpose; its text names the file, node or option and what to do."""

    exit_code: ClassVar[int] = 1


class ModelError(OnnxSparseError):
    """The model, or another input file, cannot be used as it is."""


class ParamError(OnnxSparseError):
    """The caller asked for something that makes no sense, or cannot be done, on this model."""

    exit_code = 2


class PassError(OnnxSparseError):
    """A pass could not do its work, or left a model that does not hold; names the pass and the node."""


class BackendError(OnnxSparseError):
    """A runtime or cost backend refused the model."""
