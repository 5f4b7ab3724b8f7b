"""Samples, ranges and scales as plain files, so that a vendor's quantizer can make the same choices."""

from pathlib import Path
from typing import IO

import numpy as np

from onnxsparse.errors import ParamError
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.quantize_model import QuantizedModel
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.records import ArtifactWriter, json_text, text_writer
from onnxsparse.runtime.samples import Samples


def export_files(folder: Path, found: QuantizedModel, calibration: Calibration) -> dict[Path, ArtifactWriter]:
    """Path → writer of `choices.json` and, with data, of every sample and of `samples.txt`, which lists them.

    A sample is `sample_00000.npy`, or npz for a model with several inputs. Samples are read again when they are written, one at a
    time. Raises ParamError if `folder` does not exist or holds samples.
    """
    check_export(folder)
    made: dict[Path, ArtifactWriter] = {folder / "choices.json": text_writer(choices_json(found))}
    if calibration.data is None:
        return made
    suffix = "npy" if len(next(iter(calibration.data))) == 1 else "npz"
    names = [f"sample_{number:05}.{suffix}" for number in range(len(calibration.data))]
    made |= {folder / name: sample_writer(calibration.data, number) for number, name in enumerate(names)}
    made[folder / "samples.txt"] = text_writer("".join(f"{name}\n" for name in names))
    return made


def check_export(folder: Path) -> None:
    """Raises ParamError if `folder` is not a folder, or holds samples that would be mixed with the new ones."""
    if not folder.is_dir():
        raise ParamError(f"quantize: --export {folder} is not a folder; create it first")
    if any(folder.glob("sample*")):
        raise ParamError(f"quantize: --export {folder} already holds samples; give an empty folder")


def sample_writer(samples: Samples, number: int) -> ArtifactWriter:
    """A function that writes one of `samples` to a file."""

    def write(file: IO[bytes]) -> None:
        """Write the sample as npy, or as npz if it has several arrays."""
        feeds = samples.feeds[number]
        if len(feeds) == 1:
            np.save(file, next(iter(feeds.values())))
        else:
            np.savez(file, **feeds)  # type: ignore[arg-type]  # numpy's stubs take its own options for arrays' names

    return write


def choices_json(found: QuantizedModel) -> str:
    """Range, width, scale and zero point of every activation and weight, and the nodes that stay float (docs/json.md)."""
    written, placement = found.written, found.placement
    target = placement.anatomy.target
    content = {
        "schema": 1,
        "target": target.name,
        "public": list(target.public),
        "inferred": list(target.inferred),
        "activations": [
            {
                "tensor": name,
                "range": [*scale.grid.span(scale.scale, scale.zero_point)],
                "bits": scale.grid.bits,
                "signed": scale.grid.signed,
                "scale": scale.scale,
                "exponent": Grid.exponent(scale.scale),
                "zero_point": scale.zero_point,
            }
            for name, scale in written.scales.items()
        ],
        "weights": [
            {
                "tensor": name,
                "nodes": list(change.nodes),
                "bits": weight.grid.bits,
                "axis": weight.sharing.axis,
                "block": weight.sharing.block,
                "scale": weight.scale.reshape(-1).tolist(),
                "exponent": [Grid.exponent(scale) for scale in weight.scale.reshape(-1).tolist()],
            }
            for change in written.changes
            for name, weight in ((change.tensor, written.weights[change.tensor]),)
        ],
        "float": [{"node": skip.node, "reason": skip.reason} for skip in placement.skipped],
    }
    return json_text(content)
