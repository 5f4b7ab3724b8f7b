"""Passes on all models of a folder, and comparisons of two folders."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse.cli.sweep import path_for
from onnxsparse.errors import ParamError
from onnxsparse.parallel.executor import InProcess
from tests.commands import Run, files
from tests.graphs import chain


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with three models."""
    folder = tmp_path / "models"
    folder.mkdir()
    for width in (8, 16, 32):
        onnx.save(chain(3, width, 4), folder / f"w{width:02d}.onnx")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


class TestAPassOnAFolder:
    def test_on_two_cores_as_on_one(self, run: Run, models: Path, out: Path) -> None:
        (out / "two").mkdir()
        names = ("w08.onnx", "w16.onnx", "w32.onnx")
        assert run("prune", models, out / "{model}.onnx", "--record", out / "{model}.json") == 0
        assert files(out) == ["two", *sorted(f"{name[:3]}.{kind}" for name in names for kind in ("json", "onnx"))]
        assert [run.out.index(f"{models / name}:") for name in names] == sorted(run.out.index(f"{models / n}:") for n in names)
        first = run.out
        assert run("prune", models, out / "two" / "{model}.onnx", "--record", out / "two" / "{model}.json", "--jobs", 2) == 0
        assert run.out.replace("/two/", "/") == first
        assert [(out / name).read_bytes() for name in names] == [(out / "two" / name).read_bytes() for name in names]

    def test_sensitivity_gives_a_database_for_each_model(self, run: Run, models: Path, out: Path, tmp_path: Path) -> None:
        data = tmp_path / "samples.npy"
        np.save(data, np.random.default_rng(0).standard_normal((20, 3, 8, 8), np.float32))
        assert run("sensitivity", models, "--data", data, "--json", out / "{model}.json", "--jobs", 2) == 0
        assert [json.loads((out / f"w{width:02d}.json").read_text())["model"] for width in (8, 16, 32)] == [
            "w08.onnx",
            "w16.onnx",
            "w32.onnx",
        ]

    def test_a_model_that_fails_fails_alone(self, run: Run, models: Path, out: Path) -> None:
        (models / "w16.onnx").write_bytes(b"no model")
        assert run("annotate", models, out / "{model}.onnx") == 1
        assert files(out) == ["w08.onnx", "w32.onnx"]
        assert "w16.onnx" in run.err
        assert run.err.endswith("onnxsparse: annotate: 1 of 3 models failed: w16.onnx\n")

    def test_errors_are_json_too(self, run: Run, models: Path, out: Path) -> None:
        (models / "w16.onnx").write_bytes(b"no model")
        assert run("annotate", models, out / "{model}.onnx", "--log", "json", "--jobs", 2) == 1
        failed = [event for event in map(json.loads, run.err.splitlines()) if event["event"] == "failed"]
        assert ["w16.onnx" in event["message"] for event in failed] == [True, True]

    def test_every_file_to_write_is_of_one_model(self, run: Run, models: Path, out: Path) -> None:
        for arguments in ([out], [out / "all.onnx"], [out / "{model}.onnx", "--record", out / "all.json"]):
            assert "needs a file of its own; write {model}" in run.fails(2, "prune", models, *arguments)
        assert "give --force" in run.fails(2, "prune", models, models / "{model}.onnx")
        assert "is named twice" in run.fails(2, "prune", models, out / "{model}.onnx", "--record", out / "{model}.onnx")
        assert files(out) == []

    def test_a_folder_without_models(self, run: Run, tmp_path: Path, out: Path) -> None:
        assert "the folder holds no .onnx files" in run.fails(2, "prune", out, tmp_path / "{model}.onnx")
        assert "is a folder" in run.fails(1, "inspect", out)

    def test_with_force_onto_the_models_themselves(self, run: Run, models: Path) -> None:
        before = [path.read_bytes() for path in sorted(models.iterdir())]
        assert run("prune", models, models / "{model}.onnx", "--force") == 0
        after = [path.read_bytes() for path in sorted(models.iterdir())]
        assert all(old != new for old, new in zip(before, after, strict=True))

    def test_the_example_is_a_path_for_every_model(self) -> None:
        for given, example in (("o/x.json", "o/x-{model}.json"), ("o", "o/{model}.onnx"), ("-", "{model}.onnx")):
            with pytest.raises(ParamError, match="as in " + example.replace("{", r"\{")):
                path_for(Path(given), "--json", Path("m.onnx"))

    def test_ctrl_c_says_what_is_done(self, run: Run, models: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(_self: object, function: object, jobs: list[object]) -> object:
            assert callable(function)
            yield 0, function(jobs[0], 0)
            raise KeyboardInterrupt

        monkeypatch.setattr(InProcess, "run", interrupted)
        assert run("annotate", models, out / "{model}.onnx") == 130
        assert files(out) == ["w08.onnx"]
        assert run.err == "onnxsparse: annotate: interrupted; 1 of 3 models are done\n"


class TestComparingFolders:
    def test_a_row_for_each_pair(self, run: Run, models: Path, out: Path, tmp_path: Path) -> None:
        assert run("prune", models, out / "{model}.onnx", "--no-compare") == 0
        assert run("compare", models, out, "--json", tmp_path / "c.json", "--jobs", 2) == 0
        found = json.loads((tmp_path / "c.json").read_text())["comparisons"]
        assert [one["model"] for one in found] == ["w08.onnx", "w16.onnx", "w32.onnx"]
        for one in found:
            assert run("compare", models / one["model"], out / one["model"], "--json", "-") == 0
            assert json.loads(run.out) | {"model": one["model"]} == one

    def test_a_limit_names_the_pairs_that_miss_it(self, run: Run, models: Path, out: Path) -> None:
        assert run("annotate", models, out / "{model}.onnx") == 0
        assert run("prune", models / "w16.onnx", out / "w16.onnx", "--sparsity", 0.9) == 0
        line = run.fails(1, "compare", models, out, "--min-sqnr", 60)
        assert "w16.onnx: not every output" in line
        assert "w08" not in line

    def test_a_pair_that_cannot_be_compared_fails_alone(self, run: Run, models: Path, out: Path) -> None:
        assert run("annotate", models, out / "{model}.onnx") == 0
        (out / "w16.onnx").write_bytes(b"no model")
        assert "w16.onnx" in run.fails(1, "compare", models, out)
        assert run.out.count("equal") == 2

    def test_bad_input(self, run: Run, models: Path, out: Path) -> None:
        assert run("annotate", models / "w08.onnx", out / "w08.onnx") == 0
        assert "holds w16.onnx, w32.onnx" in run.fails(2, "compare", models, out)
        assert "a folder and a file" in run.fails(2, "compare", models, out / "w08.onnx")
        assert "--bisect is for two models" in run.fails(2, "compare", models, models, "--bisect")
        assert "No such file" in run.fails(1, "compare", models, out / "nothing")
