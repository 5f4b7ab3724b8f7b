"""The rules that hold the house up, checked in the source itself."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import onnx.defs
import pytest

import onnxsparse
from docs.rooms import drawing
from onnxsparse.ops import FAMILIES, table
from onnxsparse.pipeline.registry import BUILT_IN
from tests.commands import Run
from tests.op_types import decisions

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "onnxsparse"

LINE = (
    ("errors",),
    ("progress", "records", "format", "targets"),
    ("ir",),
    ("ops",),
    ("analysis",),
    ("runtime",),
    ("parallel",),
    ("calibration",),
    ("cost",),
    ("annotations", "pruning"),
    ("channels", "folding", "quantization"),
    ("recovery",),
    ("pipeline",),
    ("passes",),
    ("search", "partition"),
    ("cli",),
)
"""Imports point to the left: a room imports from itself and from rooms before its own braces. Some are still to be built."""


def room(module: str) -> str:
    """`ir` of `ir.model`; the package itself is no room."""
    return module.split(".")[0]


STEPS = {name: step for step, names in enumerate(LINE) for name in names}


def sources() -> Iterator[tuple[str, Path]]:
    """(dotted module path below the package, file)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "passes":
            yield ".".join(parts).removesuffix(".__init__"), path
    for path in sorted((ROOT / "passes").glob("*.py")):
        yield f"passes.{path.stem}".removesuffix(".__init__"), path


MODULES = dict(sources())
ALL_SOURCES = pytest.mark.parametrize(("module", "path"), list(MODULES.items()), ids=lambda v: v if isinstance(v, str) else "")


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of this package that a file imports, in functions and TYPE_CHECKING blocks too."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "onnxsparse":
            base = (statement.module or "").removeprefix("onnxsparse").lstrip(".")
            inner = (f"{base}.{alias.name}".lstrip(".") for alias in statement.names)
            found |= {name if name in MODULES else base for name in inner}
    return frozenset(found)


def edges() -> set[tuple[str, str]]:
    """(importing room, imported room), where they differ."""
    pairs = {(room(module), room(name)) for module, path in sources() for name in imports(path) if module != "__init__"}
    return {(a, b) for a, b in pairs if a != b}


@ALL_SOURCES
def test_imports_point_to_the_left(module: str, path: Path) -> None:
    if module == "__init__":
        return
    for name in imports(path):
        assert room(name) == room(module) or STEPS[room(name)] < STEPS[room(module)], f"{module} imports {name}"


def test_no_import_goes_in_a_circle() -> None:
    TopologicalSorter({module: imports(path) - {module} for module, path in MODULES.items()}).prepare()


def test_the_page_shows_the_line_and_the_rooms() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert drawing(LINE, edges()) in page, "run: python -m docs.rooms"


def test_the_house_has_few_rooms() -> None:
    """Modules that stand alone at the top, and rooms on the drawing."""
    assert len([module for module in MODULES if "." not in module and (PACKAGE / f"{module}.py").exists()]) <= 8
    assert len({room(module) for module in MODULES} - {"__init__"}) <= 22


def test_backends_never_see_onnx() -> None:
    for module, path in MODULES.items():
        if not module.startswith("cost.backends"):
            continue
        assert not re.search(r"^\s*(?:import|from) onnx\b", path.read_text(), re.MULTILINE), path
        for name in imports(path):
            assert name.startswith(("cost.backends", "errors", "targets")), f"{path}: {name}"


@ALL_SOURCES
def test_only_ops_decide_by_op_type(module: str, path: Path) -> None:
    assert room(module) == "ops" or not decisions(path.read_text()), f"{path}: lines {decisions(path.read_text())}"


@pytest.mark.parametrize(
    "line",
    [
        'node.op_type == "Relu"',
        "node.op_type != RELU",
        'node.op_type in ("Relu", "Clip")',
        'node.op_type not in {"Relu"}',
        'node.op_type in ["Relu"]',
        'node.op_type in {"Relu": 1}',
        "node.op_type in ACTIVATIONS",
        "node.op_type in ops.ACTIVATIONS",
        'node.op_type in frozenset(("Relu", "Clip"))',
        'op_type in "Relu Clip".split()',
        "(node.domain, node.op_type) in FUSED",
        "OPSETS[node.op_type]",
        "OPSETS[node.domain, node.op_type]",
        "OPSETS.get(node.op_type)",
        "OPSETS.get(op_type, 7)",
        '{"Relu": 1}[node.op_type]',
        '{"Relu": 1}.get(node.op, 0)',
        "lower[node.op_type]",
        'node.op_type.startswith("Reduce")',
    ],
)
def test_the_gate_sees_a_decision_by_op_type(line: str) -> None:
    assert decisions(f'lower = {{"Relu": 1}}\nfound = {line}\n') == [2]


def test_the_gate_sees_a_match_on_an_op_type() -> None:
    assert decisions("match node.op_type:\n    case other:\n        pass\n") == [1]


@ALL_SOURCES
def test_only_ops_read_attributes_by_name(module: str, path: Path) -> None:
    found = re.findall(r"\.(?:number|numbers|real|text|required|axis)\(\"|attributes\[\"", path.read_text())
    assert room(module) == "ops" or not found, path


@pytest.mark.parametrize(
    "line",
    [
        'node.op_type == "Constant"',
        "node.op_type != other.op_type",
        "node.op_type in target.integer_ops",
        "functions[node.domain, node.op_type, node.overload]",
        "find(node.domain, node.op_type, 17)",
        '{"op_type": node.op_type}',
        'f"no rule for {node.op_type}"',
    ],
)
def test_the_gate_lets_data_pass(line: str) -> None:
    assert not decisions(line)


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


def functions(path: Path) -> list[ast.FunctionDef]:
    return [part for part in ast.walk(ast.parse(path.read_text())) if isinstance(part, ast.FunctionDef)]


def lines_of(function: ast.FunctionDef) -> int:
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    docstring = first if ast.get_docstring(function) is not None else None
    counted = (function.end_lineno or function.lineno) - function.lineno + 1
    return counted - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1 if docstring else 0)


BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def nesting(part: ast.AST) -> int:
    """Depth of blocks inside each other. An elif is as deep as its if; inner functions do not count."""
    deepest = 0
    for child in ast.iter_child_nodes(part):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(part, ast.If) and isinstance(child, ast.If) and part.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """(where it stands, function) of every function whose name has no underscore in front."""
    for module, path in sources():
        yield from ((f"{module}:{f.lineno} {f.name}", f) for f in functions(path) if not f.name.startswith("_"))


def raises(function: ast.FunctionDef) -> bool:
    """Whether it raises an exception of its own; a bare `raise` passes another's on."""
    return any(isinstance(part, ast.Raise) and part.exc is not None for part in ast.walk(function))


def test_no_file_is_over_350_lines() -> None:
    """Split a longer file where its second idea begins."""
    beside = [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    assert [str(path) for path in (*MODULES.values(), *beside) if len(path.read_text().splitlines()) > 350] == []


def test_no_function_is_over_45_lines_without_its_docstring() -> None:
    """Give a part of a longer function a name of its own."""
    assert [f"{module}:{f.lineno} {f.name}" for module, path in sources() for f in functions(path) if lines_of(f) > 45] == []


def test_blocks_stand_at_most_three_deep() -> None:
    """Return early, or give the inner block a name of its own."""
    assert [f"{module}:{f.lineno} {f.name}" for module, path in sources() for f in functions(path) if nesting(f) > 3] == []


def test_public_functions_have_a_docstring() -> None:
    """Nine of ten at least: write what is returned, shapes, units, and what None means."""
    every = list(public_functions())
    without = [where for where, function in every if ast.get_docstring(function) is None]
    assert len(without) <= len(every) / 10, without


def test_public_functions_say_what_they_raise() -> None:
    """A docstring says "Raises", the exception, and when."""
    unsaid = [where for where, f in public_functions() if raises(f) and "aises" not in (ast.get_docstring(f) or "")]
    assert unsaid == []


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
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "onnxsparse" / "targets" / "roofline.toml"):
        for command, rest in re.findall(r"\bonnxsparse ((?:data )?[a-z][a-z-]+)( [^`#\n]*)", page.read_text()):
            for option in re.findall(r"(?<= )--[a-z][a-z-]+", rest):
                assert run(*command.split(), "--help") == 0
                assert re.search(rf"{option}(?![a-z-])", run.out), f"{page.name}: onnxsparse {command} has no {option}"
