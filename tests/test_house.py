"""The rules that hold the house up, checked in the source itself."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import onnx.defs
import pytest

import onnxsparse
from onnxsparse.ops import FAMILIES, table
from onnxsparse.registry import BUILT_IN
from tests.commands import Run

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "onnxsparse"

# from the ground up; a module imports from its own floor or below
FLOORS = [
    {"errors", "progress"},
    {"wire", "mapped", "files", "dims", "protos", "widths", "backends"},
    {"checks"},
    {"weights"},
    {"sparse", "model", "graph", "functions"},
    {"bridge", "additions"},
    {"ops", "evaluate"},
    {"constants", "propagate", "assembly"},
    {"recorded", "conflicts"},
    {"shapes"},
    {"fixedvalues"},
    {"layer", "opset", "patterns"},
    {"facts"},
    {"workload"},
    {"targets", "tail", "uncertainty"},
    {"deployment", "knee", "fitting"},
    {"metadata", "passbase", "verify"},
    {"unfolding"},
    {"runtime"},
    {"as_run"},
    {"inputs", "branches", "flattening", "pruning", "folding", "deployment_report"},
    {"channels", "calibration"},
    {"quantization"},
    {"measuring"},
    {"comparison", "tracing", "divergence"},
    {"diagnosis"},
    {"pipeline", "passes", "registry"},
    {"recipe", "report", "viewing"},
    {"jobs"},
    {"commands", "report_commands"},
    {"cli", "__init__"},
]


def sources() -> Iterator[tuple[str, Path]]:
    """(dotted module path below the package, file)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path
    for path in sorted((ROOT / "passes").glob("*.py")):
        yield f"passes.{path.stem}", path


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports at its top level, TYPE_CHECKING blocks left out."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("onnxsparse"):
            module = (statement.module or "").removeprefix("onnxsparse").lstrip(".")
            yield from [module] if module else [alias.name for alias in statement.names]


def floor(module: str) -> int:
    room = module.split(".")[0]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_down(module: str, path: Path) -> None:
    for imported in imports(path):
        assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_backends_never_see_onnx() -> None:
    for path in (PACKAGE / "backends").glob("*.py"):
        assert "import onnx\n" not in path.read_text()
        for module in imports(path):
            assert module.split(".")[0] in ("backends", "errors"), f"{path}: {module}"


def test_ops_know_no_pass_and_the_core_no_concrete_pass() -> None:
    for module, path in sources():
        if not module.startswith(("passes", "report_commands")):
            assert not any(name.startswith("passes") for name in imports(path)), module


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda v: v if isinstance(v, str) else "")
def test_op_types_are_compared_in_ops_alone(module: str, path: Path) -> None:
    """Constant is the exception where tensors are indexed: it is how a graph spells an initializer."""
    if module.startswith("ops"):
        return
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Compare):
            sides = [statement.left, *statement.comparators]
            touches = any(isinstance(side, ast.Attribute) and side.attr == "op_type" for side in sides)
            names = {side.value for side in sides if isinstance(side, ast.Constant)}
            assert not touches or not names - {"Constant"}, f"{path}:{statement.lineno}"


def test_the_package_list_is_complete() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"onnxsparse.passes"}


def test_public_names_exist_and_are_documented() -> None:
    for name in onnxsparse.__all__:
        assert getattr(onnxsparse, name).__doc__, name
    assert set(onnxsparse.__all__) == set(onnxsparse._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onnxsparse.nothing


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_pass_is_a_frozen_dataclass_and_registered_as_it_is(name: str) -> None:
    found = BUILT_IN[name].load()
    assert found.name == name
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen
    assert (found.__doc__ or "").splitlines()[0] == BUILT_IN[name].summary
    assert (ROOT / "passes" / f"{name.replace('-', '_')}.py").exists()


def test_every_pass_file_is_registered() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "passes").glob("*.py")} - {"--init--"}
    assert files == set(BUILT_IN)


def test_the_passes_have_one_import_name() -> None:
    with pytest.raises(ImportError, match=r"import onnxsparse\.passes"):
        __import__("passes")


def test_every_op_stands_once() -> None:
    keys = [(spec.domain, spec.op_type, spec.since) for family in FAMILIES for spec in family.SPECS]
    assert len(keys) == len(set(keys))


def test_op_names_are_onnxs_own() -> None:
    ours = {op for domain, op in table() if domain == ""} - {"SimplifiedLayerNormalization"}
    assert not [op for op in ours if not onnx.defs.has(op)]


def test_every_function_is_short_and_every_file_too() -> None:
    for _, path in sources():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for statement in ast.walk(ast.parse(text)):
            if isinstance(statement, ast.FunctionDef) and statement.end_lineno is not None:
                assert statement.end_lineno - statement.lineno <= 55, f"{path}:{statement.name}"


@pytest.mark.parametrize("results", ["speed.md", "large-models.md"])
def test_the_readmes_tables_are_those_that_the_benchmarks_made(results: str) -> None:
    rows = [line for line in (ROOT / "benchmarks" / "results" / results).read_text().splitlines() if line.startswith("|")]
    assert rows
    assert "\n".join(rows) in (ROOT / "README.md").read_text()


def test_the_readmes_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_options_that_the_pages_show_exist(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "onnxsparse" / "backends" / "roofline.toml"):
        for command, rest in re.findall(r"\bonnxsparse ([a-z][a-z-]+)( [^`#\n]*)", page.read_text()):
            for option in re.findall(r"(?<= )--[a-z][a-z-]+", rest):
                assert run(command, "--help") == 0
                assert option in run.out, f"{page.name}: onnxsparse {command} has no {option}"
