"""The commands about data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnxsparse.calibration.contact_sheet import Sheet, contact_sheet
from onnxsparse.calibration.data import DataFiles, for_source, open_data
from onnxsparse.calibration.inspection import inspect_data
from onnxsparse.calibration.preprocessing import PreprocessFile, Preprocessing, preprocessing_toml, read_preprocessing
from onnxsparse.cli.jobs import Json, Sizes
from onnxsparse.cli.render import text
from onnxsparse.cli.render.data_text import print_data, print_held_out, print_sheet
from onnxsparse.cli.render.live import live
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT, Staging, identity
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile
from onnxsparse.pipeline.base import described
from onnxsparse.pipeline.learning import DATA_FORMS, TEST_HELP
from onnxsparse.records import ArtifactWriter, json_text, text_writer
from onnxsparse.runtime.samples import Samples


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Checking:
    """The data to check, and what to write besides numbers."""

    data: DataFiles = field(metadata=described(f"Data to learn from: {DATA_FORMS}."))
    test: DataFiles | None = field(default=None, metadata=described(TEST_HELP))
    preprocess: PreprocessFile | None = field(
        default=None, metadata=described("File that says how images become inputs (TOML), in place of options.")
    )
    save_preprocess: OutputFile | None = None
    """File for the options for images (TOML), to be given to --preprocess of every command; - for standard output."""
    sheet: OutputFile | None = None
    """File for up to 16 samples of --data as pictures (PNG), as the model would get them; - for standard output."""


def check(
    model: Path,
    /,
    *,
    checking: Checking,
    images: Annotated[Preprocessing | None, Parameter(name="*")] = None,
    json_out: Json = Json(),
    sizes: Sizes = Sizes(),
) -> None:
    """Show what each input of a model gets from data, as numbers and as pictures, and what is odd about it.

    Parameters
    ----------
    model
        The ONNX model.

    Raises
    ------
    ParamError
        For options that do not go together or do not fit the model, or a sheet of inputs that are no images.
    ModelError
        For a model or data that cannot be read, or data that does not fit the model.
    """
    json_out.check(model, also=(checking,))
    check_sheet(checking)
    preprocessing = chosen(checking, images)
    loaded = sizes.load(model)
    parts = opened(checking, preprocessing, loaded)
    with live("data check"):
        sheet = None if checking.sheet is None else contact_sheet(parts["data"])
        facts = {role: inspect_data(samples) for role, samples in parts.items()}
    document = {"schema": 1, "model": loaded.name, "test": None} | {role: found.to_json() for role, found in facts.items()}
    written = dict(outputs(checking, preprocessing, sheet, json_out, document))
    with Staging() as staging:
        for path, writer in written.items():
            staging.write(path, writer)
    if json_out.json_file != STDOUT:
        out = text.console(stderr=STDOUT in written)
        text.print_assumed(out, loaded.binding)
        for found in facts.values():
            print_data(out, found)
        if checking.test is None:
            print_held_out(out, parts["data"])
        if sheet is not None:
            print_sheet(out, sheet)
        text.print_written(out, [path for path in written if path != STDOUT])


def chosen(checking: Checking, images: Preprocessing | None) -> Preprocessing:
    """How images become inputs: by the options for images (None: none is given) or by --preprocess. Raises ParamError if both."""
    if checking.preprocess is None:
        return images or Preprocessing()
    if images is not None:
        raise ParamError("data check: give --preprocess, or options for images (--size, --resize, --mean…), not both")
    return read_preprocessing(checking.preprocess)


def check_sheet(checking: Checking) -> None:
    """Raises ParamError for a sheet in a folder of data, where the next command would take it for a sample."""
    for folder in (checking.data, checking.test):
        if checking.sheet is not None and folder is not None and identity(checking.sheet.parent) == identity(folder):
            raise ParamError(f"--sheet {checking.sheet}: {folder} is a folder of samples; write the sheet elsewhere")


def opened(checking: Checking, images: Preprocessing, model: Model) -> dict[str, Samples]:
    """`data`, and `test` if it is given, with their samples. Raises ParamError and ModelError as `open_data` does."""
    data, test = checking.data, checking.test
    parts = {"data": open_data(data, model, for_source(images, data, test))}
    if test is not None:
        parts["test"] = open_data(test, model, for_source(images, test, data), option="--test")
    return parts


def outputs(
    checking: Checking, images: Preprocessing, sheet: Sheet | None, json_out: Json, document: object
) -> Iterator[tuple[Path, ArtifactWriter]]:
    """The files to write."""
    if checking.sheet is not None and sheet is not None:
        yield checking.sheet, sheet.save
    if checking.save_preprocess is not None:
        yield checking.save_preprocess, text_writer(preprocessing_toml(images))
    if json_out.json_file is not None:
        yield json_out.json_file, text_writer(json_text(document))
