"""The files of a report and their contents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.estimate import Deployment, Operation
from onnxsparse.cost.report.figures import figures, to_svg
from onnxsparse.cost.report.html import html
from onnxsparse.cost.report.records import deployment_json
from onnxsparse.cost.report.tables import layers_csv, markdown
from onnxsparse.cost.sparsity_sweep import Curve, curves, curves_csv
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT
from onnxsparse.records import json_text


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where to write a report in each format; None: not in that format. `svg` is a folder, all others are files."""

    json: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None
    html: Path | None = None
    svg: Path | None = None
    curve_csv: Path | None = None

    def __bool__(self) -> bool:
        return self != ReportFiles()

    @property
    def to_stdout(self) -> bool:
        """Whether one of the files is standard output."""
        return STDOUT in (self.json, self.csv, self.markdown, self.html, self.curve_csv)

    @property
    def need_curves(self) -> bool:
        """Whether a format includes the sweep over sparsity."""
        return any(path is not None for path in (self.html, self.svg, self.curve_csv))


def contents(
    files: ReportFiles, found: Deployment, model: str, operation: Operation | None = None, drawn: tuple[Curve, ...] = ()
) -> Iterator[tuple[Path, str]]:
    """(file, text) for every format. `drawn`: curves that exist already; else they are computed if a format needs them.

    Raises ParamError if the folder of `svg` does not exist.
    """
    if files.need_curves and isinstance(found.backend, FileBackend):
        drawn = drawn or curves(found.load, found.backend)
    makers: list[tuple[Path | None, Callable[[], str]]] = [
        (files.json, lambda: json_text(deployment_json(found, model, drawn, operation))),
        (files.csv, lambda: layers_csv(found)),
        (files.markdown, lambda: markdown(found, model)),
        (files.html, lambda: html(found, model, drawn, operation)),
        (files.curve_csv, lambda: curves_csv(drawn)),
    ]
    yield from ((path, make()) for path, make in makers if path is not None)
    if files.svg is not None:
        if not files.svg.is_dir():
            raise ParamError(f"--svg {files.svg} is not a folder; create it first")
        for name, spec in figures(found, drawn).items():
            yield files.svg / f"{name}.svg", to_svg(spec)
