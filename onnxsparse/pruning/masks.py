"""Masks and weights as npz files, by tensor name. A mask is boolean, True where the weight is kept."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.context import main_context
from onnxsparse.analysis.stored_weights import StoredWeight, zero_value
from onnxsparse.errors import ModelError
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.records import ArtifactWriter

Mask = NDArray[np.bool_]


def writers(
    model: Model, candidates: Sequence[Candidate], masks: Path | None, weights: Path | None
) -> dict[Path, ArtifactWriter]:
    """File → writer, for the files of masks and of weights that are asked for."""
    found = {}
    if masks is not None:
        found[masks] = mask_writer(model.weights, [candidate.stored for candidate in candidates])
    if weights is not None:
        found[weights] = weight_writer(model, candidates)
    return found


def mask_writer(weights: Weights, tensors: Sequence[StoredWeight]) -> ArtifactWriter:
    """A function that writes the nonzero pattern of `tensors` to an npz file, one tensor in memory at a time.

    The function reads the weights when it is called, so that later passes are included.
    """
    by_name = {stored.name: stored for stored in tensors}

    def kept(name: str) -> Mask:
        return np.asarray(weights[name] != np.asarray(zero_value(by_name[name], weights)))

    return npz_writer(weights, list(by_name), kept)


def weight_writer(model: Model, candidates: Sequence[Candidate]) -> ArtifactWriter:
    """A function that writes the weights of `candidates` and the biases beside them to an npz file, as they are now.

    bfloat16 and float8, which npz cannot hold, are written as float32.
    """
    weights = model.copy().weights
    names = [candidate.name for candidate in candidates] + biases(model, {n for c in candidates for n in c.nodes})

    def values(name: str) -> Array:
        array = weights[name]
        return array.astype(np.float32) if array.dtype.kind == "V" else array  # numpy's kind of ml_dtypes' types

    return npz_writer(weights, list(dict.fromkeys(names)), values)


def biases(model: Model, nodes: set[str]) -> list[str]:
    """The stored biases of these nodes of the main graph, in its order."""
    context = main_context(model, model.proto)
    found = []
    for node, name, spec in zip(context.nodes, context.graph.names, context.specs, strict=True):
        if name not in nodes or spec is None or spec.fold.absorb is None:
            continue
        bias = "".join(node.input[spec.fold.absorb.bias_at :][:1])  # empty if there is none
        if bias in model.weights:
            found.append(bias)
    return found


def npz_writer(weights: Weights, names: Sequence[str], array: Callable[[str], Array]) -> ArtifactWriter:
    """A function that writes `array` of each name to an npz file, and then releases the tensor."""

    def write(file: IO[bytes]) -> None:
        """Write one array per tensor."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                # like numpy's savez: the tensor's name is the member's name as it is, slashes included
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array(name), allow_pickle=False)
                weights.release(name)

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
