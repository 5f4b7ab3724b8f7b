"""Finished passes are found again where everything that they depend on is the same, and nowhere else."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse import Fold, Pipeline, Prune, load
from onnxsparse.pipeline import cache as caching
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.cache import Cache
from onnxsparse.pipeline.check import Check, Step
from onnxsparse.records import text_writer
from tests.commands import Run, files
from tests.graphs import chain

RECIPE = """
passes:
  - fold
  - prune: {sparsity_op: 0.6, masks: m.npz}
  - quantize: {data: calib.npy, save_ranges: ranges.json}
  - annotate
"""


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    Path("r.yaml").write_text(RECIPE)
    np.save("calib.npy", np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    return folder / "cache" / "onnxsparse"


def reused(run: Run, *options: str, source: str = "in.onnx") -> int:
    """How many passes of the recipe were not run again."""
    assert run("run", "r.yaml", source, "o.onnx", *options) == 0, run.err
    return run.out.count("its result is reused from an earlier run")


@pytest.mark.parametrize(
    ("source", "recipe", "names", "passes"),
    [
        ("in.onnx", RECIPE, ("o.onnx", "m.npz", "ranges.json"), 4),
        ("ext.onnx", "passes: [annotate, strip, annotate]", ("o.onnx", "o.onnx.data"), 3),
    ],
)
def test_a_resumed_run_gives_the_same_bytes(
    run: Run, place: Path, source: str, recipe: str, names: tuple[str, ...], passes: int
) -> None:
    Path("r.yaml").write_text(recipe)
    assert reused(run, "--no-cache", source=source) == 0
    assert not place.exists()
    whole = taken(names)
    assert reused(run, source=source) == 0
    first = taken(names)
    assert reused(run, source=source) == passes
    assert whole == first == taken(names)


def taken(names: tuple[str, ...]) -> list[bytes]:
    """The content of files, which are deleted: a side file that exists is not overwritten."""
    found = [Path(name).read_bytes() for name in names]
    for name in names:
        Path(name).unlink()
    return found


def test_a_run_goes_on_where_an_earlier_one_stopped(run: Run, place: Path) -> None:
    Path("r.yaml").write_text(RECIPE + "  - check: {min_sqnr: 300}\n")
    assert run("run", "r.yaml", "in.onnx", "o.onnx") == 1
    Path("r.yaml").write_text(RECIPE)
    assert reused(run) == 4


def change_data() -> None:
    np.save("calib.npy", np.ones((4, 3, 8, 8), np.float32))


def change_option() -> None:
    Path("r.yaml").write_text(RECIPE.replace("0.6", "0.7"))


def change_model() -> None:
    onnx.save(chain(3, 8, 4), "in.onnx")


@pytest.mark.parametrize(("change", "left"), [(change_data, 2), (change_option, 1), (change_model, 0)])
def test_what_a_pass_depends_on_is_noticed(run: Run, place: Path, change: object, left: int) -> None:
    assert reused(run) == 0
    assert callable(change)
    change()
    assert reused(run) == left
    assert reused(run) == 4


def test_other_input_sizes_are_another_model(run: Run, place: Path) -> None:
    built = chain(3, 8, 4)
    built.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    built.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "W"
    del built.graph.value_info[:]
    built.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(built, "open.onnx")
    Path("r.yaml").write_text("passes: [prune]")
    sizes = ("--no-compare", "--input-shape", "1,3,8,8")
    assert reused(run, *sizes, source="open.onnx") == 0
    assert reused(run, *sizes, source="open.onnx") == 1
    assert reused(run, "--no-compare", "--input-shape", "1,3,9,8", source="open.onnx") == 0


def test_other_code_is_not_trusted(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reused(run) == 0
    monkeypatch.setattr(caching, "code", lambda: "changed")
    assert reused(run) == 0


def test_another_version_of_a_package_is_not_trusted(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reused(run) == 0
    monkeypatch.setattr(caching, "versions", lambda: ("onnxruntime 99",))
    assert reused(run) == 0


def test_a_damaged_entry_is_made_again(run: Run, place: Path) -> None:
    assert reused(run) == 0
    whole = Path("o.onnx").read_bytes()
    for entry in place.iterdir():
        (entry / "report.pickle").write_bytes(b"damaged")
    assert reused(run) == 0
    assert Path("o.onnx").read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(run: Run, place: Path) -> None:
    Path("cache").write_text("a file")
    assert reused(run) == reused(run) == 0


def test_a_cache_keeps_to_its_limit(folder: Path) -> None:
    model = load("in.onnx")
    size = Path("in.onnx").stat().st_size
    small = Cache(folder / "c", limit_bytes=size * 3)
    for at, name in enumerate(("a", "b", "c")):
        small.store(name, model, StepReport("fold"))
        os.utime(folder / "c" / name, (at, at))
    small.store("d", model, StepReport("fold"))
    assert set(files(folder / "c")) == {"c", "d"}
    assert small.find("a") is None
    assert small.find("d") is not None


def test_a_model_larger_than_the_cache_is_not_stored(folder: Path) -> None:
    Cache(folder / "c", limit_bytes=100).store("a", load("in.onnx"), StepReport("fold"))
    assert not (folder / "c").exists()


def test_checks_are_judged_again(folder: Path) -> None:
    cache = Cache(folder / "c")
    steps: list[Step] = [Prune(sparsity_op=0.5), Check(min_sqnr=-50.0), Fold()]
    first = Pipeline(steps).run(load("in.onnx"), cache=cache)
    again = Pipeline(steps).run(load("in.onnx"), cache=cache)
    assert [step.reused for step in first.steps] == [False, False, False]
    assert [step.reused for step in again.steps] == [True, False, True]
    assert again.steps[1].verdict == first.steps[1].verdict


def test_a_model_made_in_memory_is_not_looked_up(folder: Path) -> None:
    from onnxsparse import Model

    for _ in range(2):
        report = Pipeline([Fold()]).run(Model.from_proto(chain(3, 4)), cache=Cache(folder / "c"))
        assert not report.steps[0].reused
    assert not (folder / "c").exists()


def test_files_of_a_reused_pass_outlive_its_entry(folder: Path) -> None:
    """Later passes of the same run may push it out of the cache."""
    cache = Cache(folder / "c")
    cache.store("a", load("in.onnx"), StepReport("fold", artifacts={Path("r.txt"): text_writer("told")}))
    found = cache.find("a")
    assert found is not None
    shutil.rmtree(folder / "c")
    held = io.BytesIO()
    found[1].artifacts[Path("r.txt")](held)
    assert held.getvalue() == b"told"
