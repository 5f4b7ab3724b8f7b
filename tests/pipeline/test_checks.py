"""Options that cannot be are refused before a model is loaded, and data that does not fit before the first pass runs."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, get_args, get_type_hints

import pytest
from pydantic.dataclasses import dataclass

from onnxsparse import Fold, Model, ModelError, ParamError, Pipeline, Prune, PruneChannels, Quantize
from onnxsparse.cli.jobs import Job, Json, Running, Saving, Sizes, run_passes
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.report.records import TOTALS, totals
from onnxsparse.ir.option_roles import Role, given_options, roles
from onnxsparse.pipeline.base import OPTIONS, StepReport
from onnxsparse.pipeline.learning import Judging
from onnxsparse.pipeline.registry import BUILT_IN
from onnxsparse.records import text_writer
from tests.commands import Run, files
from tests.graphs import chain

# options of a pass as on the command line, the exit code, and what is said
WRONG = {
    "prune": [
        ("--only re:[", 2, "'re:[' is not a regular expression"),
        ("--exclude @none", 2, "prune: --exclude @none: cannot read the file: No such file"),
        ("--exclude @bad.txt", 2, "'re:[' is not a regular expression"),
        ("--layer-sparsity conv0", 2, "write it as PATTERN=VALUE"),
        ("--layer-sparsity re:[=0.5", 2, "'re:[' is not a regular expression"),
        ("--pattern 2x", 2, "--pattern 2x"),
        ("--pattern 2:4 --sparsity 0.5", 2, "leave the target out"),
        ("--sparsity 0.5 --sparsity-op 0.5", 2, "not both"),
        ("--scope layer --max-layer-sparsity 0.1", 2, "is below the target"),
        ("--sparsity-op nan", 2, "--sparsity-op"),
        ("--cost-exponent nan", 2, "--cost-exponent"),
        ("--masks no/m.npz", 2, "does not exist"),
        ("--record d", 2, "is a folder"),
        ("--data none.npz", 1, "--data none.npz: No such file"),
        ("--custom-ops none.so", 1, "--custom-ops none.so"),
        ("--custom-ops text.txt", 1, "--custom-ops text.txt"),
    ],
    "prune-channels": [
        ("--ratio 0.5 --macs 0.5", 2, "give one of"),
        ("--importance activation", 2, "needs --data"),
        ("--backend none", 2, "no target 'none'"),
        ("--calibration none.npz", 1, "--calibration none.npz: No such file"),
        ("--from-plan none.json", 2, "cannot read the plan"),
        ("--from-plan text.txt", 2, "is not a plan"),
        ("--only re:(", 2, "is not a regular expression"),
        ("--json no/x", 2, "does not exist"),
    ],
    "quantize": [
        ("", 2, "give calibration data with --data"),
        ("--data none", 1, "--data none: No such file"),
        ("--data data.npy --target none", 2, "no target 'none'"),
        ("--data data.npy --target text.txt", 2, "is not TOML"),
        ("--data data.npy --memory 0MB", 2, "--memory 0MB"),
        ("--data data.npy --mean a", 2, "--mean a"),
        ("--data data.npy --std 0", 2, "--std"),
        ("--data data.npy --percentile nan", 2, "--percentile"),
        ("--data data.npy --min-sqnr 30 --wide-layers 1", 2, "give one of"),
        ("--data data.npy --export none", 2, "create it first"),
        ("--data data.npy --export full", 2, "already holds samples"),
        ("--data data.npy --keep-float re:[", 2, "is not a regular expression"),
        ("--data data.npy --diagnosis-json d", 2, "is a folder"),
        ("--ranges text.txt", 1, "it is not JSON"),
    ],
    "apply-masks": [
        ("--masks none", 1, "No such file"),
        ("--masks text.txt", 1, "not an npz"),
        ("--masks data.npy", 1, "not an npz"),
    ],
    "annotate": [("--backend none", 2, "no target 'none'"), ("--side-file no/x", 2, "does not exist")],
    "fold": [("--record no/x", 2, "does not exist")],
}
COMMANDS = [(f"{command} in.onnx o.onnx {options}", *rest) for command, cases in WRONG.items() for options, *rest in cases]
COMMANDS += [
    ("report in.onnx --fail-if latency>3", 2, "is not a total"),
    ("report in.onnx --fail-if latency_ms>nan", 2, "is not a total"),
    ("report in.onnx --fail-if latency_ms>1e999", 2, "is not a total"),
    ("report in.onnx --backend none", 2, "no target 'none'"),
    ("report in.onnx --hardware text.txt", 2, "is not TOML"),
    ("report in.onnx --backend roofline --hardware mine.toml", 2, "mine.toml"),
    ("report in.onnx --svg text.txt", 2, "create it first"),
    ("report in.onnx --html no/x", 2, "does not exist"),
    ("report in.onnx --fps inf", 2, "--fps"),
    ("report in.onnx in.onnx --csv x", 2, "are of one model"),
    ("compare in.onnx in.onnx --seed -1", 2, "--seed"),
    ("compare in.onnx in.onnx --min-sqnr nan", 2, "--min-sqnr"),
    ("compare in.onnx in.onnx --data none", 1, "--data none: No such file"),
    ("compare in.onnx in.onnx --custom-ops text.txt", 1, "--custom-ops text.txt"),
    ("inspect in.onnx --json d", 2, "is a folder"),
    ("view in.onnx --backend none", 2, "no target 'none'"),
    ("view in.onnx --port 65536", 2, "--port"),
    ("strip in.onnx", 2, "name the file to write"),
    ("prune-channels in.onnx --record r.json", 2, "name the file to write"),
    ("calibrate-backend m.csv --out no/x", 2, "does not exist"),
    ("calibrate-backend m.csv --out o.toml --free none", 2, "--free none"),
    ("calibrate-backend m.csv --out in.onnx", 2, "in.onnx is named twice, to read"),
]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where a model is loaded."""

    def load(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("onnxsparse.cli.jobs.Sizes.load", load)


@pytest.mark.parametrize(("line", "code", "message"), COMMANDS)
def test_a_command_that_cannot_work_loads_no_model(
    run: Run, folder: Path, no_model: None, line: str, code: int, message: str
) -> None:
    Path("m.csv").write_text("model,latency_ms\n" + "in.onnx,1\n" * 3)
    before = files(folder)
    assert message in run.fails(code, *line.split())
    assert files(folder) == before


@pytest.mark.parametrize(
    ("step", "code", "message"),
    [
        ("prune: {only: ['re:[']}", 2, "not a regular expression"),
        ("prune: {layer_sparsity: ['conv0']}", 2, "PATTERN=VALUE"),
        ("prune: {masks: no/m.npz}", 2, "does not exist"),
        ('prune: {masks: "a\\0b"}', 2, "no file can have this name"),
        ("prune-channels: {ratio: 0.5, macs: 0.5}", 2, "give one of"),
        ("quantize", 2, "give calibration data"),
        ("quantize: {data: none}", 1, "No such file"),
        ("quantize: {data: data.npy, memory: much}", 2, "--memory much"),
        ("quantize: {data: data.npy, export: none}", 2, "create it first"),
        ("report: {csv: x, fail_if: ['latency']}", 2, "is not a total"),
        ("report: {csv: x, backend: none}", 2, "no target"),
        ("report", 2, "name a file to write"),
        ("report: {csv: x, html: x}", 2, "x is named twice"),
        ("annotate: {side_file: o.onnx}", 2, "o.onnx is named twice"),
        ("annotate: {side_file: r.yaml}", 2, "r.yaml is named twice, to read"),
        ("apply-masks: {masks: text.txt}", 1, "not an npz"),
    ],
)
def test_the_last_pass_of_a_recipe_is_checked_before_the_first_runs(
    run: Run, folder: Path, no_model: None, step: str, code: int, message: str
) -> None:
    Path("r.yaml").write_text(f"passes: [fold, prune, {{{step}}}]" if ":" in step else f"passes: [fold, prune, {step}]")
    before = files(folder)
    assert message in run.fails(code, "run", "r.yaml", "in.onnx", "o.onnx")
    assert files(folder) == before


def test_two_passes_that_write_one_file(run: Run, folder: Path, no_model: None) -> None:
    Path("r.yaml").write_text("passes: [{prune: {masks: m.npz}}, {prune: {masks: d/../m.npz}}]")
    assert "m.npz is named twice" in run.fails(2, "run", "r.yaml", "in.onnx", "o.onnx")


class First:
    """A pass that must not run."""

    name: ClassVar[str] = "first"
    changes_outputs: ClassVar[bool] = False

    def run(self, model: Model) -> StepReport:
        raise AssertionError("a pass ran")


@pytest.mark.parametrize("step", [Quantize(data=Path("other.npy")), PruneChannels(calibration=Path("other.npy"))])
def test_data_that_does_not_fit_is_found_before_a_pass_runs(folder: Path, step: Quantize | PruneChannels) -> None:
    """The model takes 1x3x8x8, and the array is 2x5."""
    with pytest.raises(ModelError, match=r"takes 1x3x8x8, the array is 2x5"):
        Pipeline([First(), step]).run(Model.from_proto(chain(3, 8, 4)))


def test_data_is_not_held_against_a_model_that_a_pass_may_have_changed(folder: Path) -> None:
    class Other(First):
        changes_inputs: ClassVar[bool] = True

    with pytest.raises(AssertionError, match="a pass ran"):
        Pipeline([Other(), PruneChannels(calibration=Path("other.npy"))]).run(Model.from_proto(chain(3, 8, 4)))


def test_a_pipeline_checks_all_of_its_passes_first() -> None:
    with pytest.raises(ParamError, match="not a regular expression"):
        Pipeline([First(), Prune(only=("re:[",))]).run(Model.from_proto(chain(3, 4)))


def test_a_pass_alone_checks_itself() -> None:
    with pytest.raises(ParamError, match="not both"):
        Prune(sparsity=0.5, sparsity_op=0.5).run(Model.from_proto(chain(3, 4)))


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Theirs:
    """A pass of a third party, which says nothing of its paths."""

    name: ClassVar[str] = "theirs"
    changes_outputs: ClassVar[bool] = False
    read: Path | None = None
    made: Path | None = None

    def run(self, model: Model) -> StepReport:
        return StepReport(self.name, artifacts={self.made: text_writer("made")} if self.made else {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": "text.txt", "made": "new.txt"}, None),
        ({"made": "o.onnx"}, "o.onnx is named twice"),
        ({"read": "text.txt", "made": "./text.txt"}, "text.txt is named twice"),
        ({"made": "in.onnx"}, "in.onnx is named twice, to read"),
    ],
)
def test_a_pass_that_says_nothing_of_its_paths(folder: Path, options: dict[str, str], message: str | None) -> None:
    """What it has made is known once it ran, and its other paths are read."""
    step = Theirs(**{name: Path(value) for name, value in options.items()})
    job = Job(Path("in.onnx"), Path("o.onnx"), Sizes(), Saving(), Judging())
    before = files(folder)
    if message is None:
        run_passes("theirs", [step], job)
        assert Path("new.txt").read_text() == "made"
        return
    with pytest.raises(ParamError, match=message):
        run_passes("theirs", [step], job)
    assert files(folder) == before


@pytest.mark.parametrize("kind", [*(entry.load() for entry in BUILT_IN.values()), Saving, Running, Json])
def test_every_path_says_what_it_is_for(kind: type) -> None:
    named = {name for name, _ in roles(kind)}
    hints = get_type_hints(kind, include_extras=True)
    paths = {field.name for field in dataclasses.fields(kind) if holds(hints[field.name], Path)}
    assert paths <= named, paths - named


def holds(hint: object, kind: type) -> bool:
    return hint is kind or any(holds(part, kind) for part in get_args(hint))


def test_roles_are_found_inside_of_other_types() -> None:
    given = given_options(Prune(only=("a", "@b"), masks=Path("m")), "prune")
    assert [(one.option, one.value) for one in given] == [
        ("prune: --only", "a"),
        ("prune: --only", "@b"),
        ("prune: --masks", Path("m")),
    ]
    assert [one.reads for one in given] == [(), (Path("b"),), ()]
    assert [one.writes for one in given] == [(), (), (Path("m"),)]
    assert given_options(Fold()) == given_options(object()) == []
    assert all(isinstance(one.role, Role) for one in given)


def test_the_totals_that_may_be_limited_are_those_there_are() -> None:
    assert tuple(totals(deploy(Model.from_proto(chain(3, 4))))) == TOTALS


def test_a_system_error_that_no_message_covers_is_one_line(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Callable[[], None]:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("onnxsparse.cli.commands.layers", refuse)
    assert "No space left on device" in run.fails(1, "inspect", "in.onnx")
