"""Masks as files: one boolean array per weight tensor, True where the weight is kept."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.stored_weights import StoredWeight, zero_value
from onnxsparse.errors import ModelError
from onnxsparse.ir.weights import Weights
from onnxsparse.records import ArtifactWriter

Mask = NDArray[np.bool_]


def mask_writer(weights: Weights, tensors: Sequence[StoredWeight]) -> ArtifactWriter:
    """A function that writes the nonzero pattern of `tensors` to an npz file, one tensor in memory at a time.

    The function reads the weights when it is called, so that later passes are included.
    """

    def write(file: IO[bytes]) -> None:
        """Write one boolean array per tensor."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for stored in tensors:
                kept = np.asarray(weights[stored.name] != np.asarray(zero_value(stored, weights)))
                # like numpy's savez: the tensor's name is the member's name as it is, slashes included
                with archive.open(f"{stored.name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, kept, allow_pickle=False)
                weights.release(stored.name)

    return write


def read_masks(path: Path) -> dict[str, Mask]:
    """Weight name → mask in the weight's shape. Raises ModelError for a file that is not npz or an array that is not boolean."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not an npz file"
        raise ModelError(f"cannot read masks from {path}: {reason}") from None
    for name, mask in found.items():
        if mask.dtype != np.bool_:
            raise ModelError(f"{path}: mask '{name}' has type {mask.dtype}; masks are boolean, True where the weight is kept")
    return found
