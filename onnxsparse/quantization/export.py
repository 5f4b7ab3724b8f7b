"""What another quantizer needs to make the same choices: the samples and the scales, as plain files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from onnxsparse.errors import ParamError
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.quantize_model import QuantizedModel
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.records import ArtifactWriter, text_writer
from onnxsparse.runtime.session import Feeds


def export_files(folder: Path, found: QuantizedModel, calibration: Calibration) -> dict[Path, ArtifactWriter]:
    """`choices.json`, and with data every sample as `sample_00000.npy` (npz where there are several inputs), listed in
    `samples.txt`. The samples are read once more when they are written, one at a time. Raises ParamError for no folder.
    """
    check_export(folder)
    made: dict[Path, ArtifactWriter] = {folder / "choices.json": text_writer(choices_json(found))}
    if calibration.data is None:
        return made
    suffix = "npy" if len(next(iter(calibration.data))) == 1 else "npz"
    names = [f"sample_{number:05}.{suffix}" for number in range(calibration.data.count())]
    samples = iter(calibration.data)
    made |= {folder / name: sample_writer(samples) for name in names}
    made[folder / "samples.txt"] = text_writer("".join(f"{name}\n" for name in names))
    return made


def check_export(folder: Path) -> None:
    """Raises ParamError for no folder, or one that would mix these samples with others."""
    if not folder.is_dir():
        raise ParamError(f"quantize: --export {folder} is not a folder; make it first")
    if any(folder.glob("sample*")):
        raise ParamError(f"quantize: --export {folder} holds samples already; give an empty folder")


def sample_writer(samples: Iterator[Feeds]) -> ArtifactWriter:
    """Writes the next sample; the files are written in order."""

    def write(file: IO[bytes]) -> None:
        feeds = next(samples)
        if len(feeds) == 1:
            np.save(file, next(iter(feeds.values())))
        else:
            np.savez(file, **feeds)  # type: ignore[arg-type]  # numpy's stubs take its own options for arrays' names

    return write


def choices_json(found: QuantizedModel) -> str:
    """Every activation and weight with its integers' meaning, and what stays float."""
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
                "axis": weight.axis,
                "scale": weight.scale.reshape(-1).tolist(),
                "exponent": [Grid.exponent(scale) for scale in weight.scale.reshape(-1).tolist()],
            }
            for change in written.changes
            for name, weight in ((change.tensor, written.weights[change.tensor]),)
        ],
        "float": [{"node": skip.node, "reason": skip.reason} for skip in placement.skipped],
    }
    return f"{json.dumps(content, indent=1, allow_nan=False)}\n"
