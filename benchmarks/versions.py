"""Compare two installed versions of onnxsparse: every command of the README and of the pages, on the digits model.

    python -m venv OLD && OLD/bin/pip install PATH_OF_OLD_CHECKOUT      # likewise NEW
    python -m benchmarks.versions OLD/bin/onnxsparse NEW/bin/onnxsparse

Each command runs in a folder of its own with the files that it names. Exit codes, JSON (times, versions and prose aside) and the
bytes of every model and array have to be equal. Exits with 1 if anything differs.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

IGNORED = {
    "seconds",
    "peak_memory_bytes",
    "versions",
    "notes",
    "reason",
    "reasons",
    "vacuous",
    "help",
    "description",
    "artifacts",
}
"""JSON keys whose values are times, versions or prose."""

MORE = """
inspect in.onnx --json facts.json
compare in.onnx tuned.onnx --json compared.json
compare in.onnx tuned.onnx --bisect --json bisected.json
prune in.onnx out.onnx --score l1 --record record.json
prune in.onnx out.onnx --sparsity-op 0.9
prune-channels in.onnx out.onnx --ratio 0.25 --json plan.json
quantize in.onnx out.onnx --data calib.npz --record record.json
report in.onnx --json report.json --csv report.csv
passes --json passes.json
prune in.onnx
prune nowhere.onnx out.onnx
quantize in.onnx out.onnx
run broken.yaml in.onnx out.onnx
report in.onnx --fail-if fps<1e9
"""

SKIPPED = ("view", "calibrate-backend")
"""They serve a page, and need measurements of a device."""


@dataclass(frozen=True)
class Outcome:
    """`files`: what a command wrote, by name: JSON without what may differ, or a digest."""

    code: int
    output: object
    files: dict[str, object]


def commands() -> Iterator[list[str]]:
    """The arguments of every command that a page shows, and of MORE, each once."""
    shown = [line for page in PAGES for line in re.findall(r"^ {4}onnxsparse ([^#\n]+)", page.read_text(), re.MULTILINE)]
    for line in dict.fromkeys(text.strip() for text in (*shown, *MORE.splitlines()) if text.strip()):
        arguments = shlex.split(line)
        if arguments[0] not in SKIPPED:
            yield arguments


def prepare(folder: Path) -> None:
    """The files that the pages name, made of the digits model and its test set."""
    for name in ("in", "model", "a", "b", "tuned", "out", "pruned", "float", "int8"):
        shutil.copy(ROOT / "sample_models" / "digits.onnx", folder / f"{name}.onnx")
    with np.load(ROOT / "sample_models" / "digits_test.npz") as test:
        images = test["x"][:32]
    for name in ("inputs", "calib", "test"):
        np.savez(folder / f"{name}.npz", image=images)
    (folder / "calib").mkdir()
    np.save(folder / "calib" / "images.npy", images)
    (folder / "recipe.yaml").write_text("passes:\n  - fold\n  - prune: {sparsity_op: 0.7}\n  - annotate\n")
    (folder / "broken.yaml").write_text("passes:\n  - prune: {sparsity: x}\n")


def run(program: Path, arguments: list[str], folder: Path) -> Outcome:
    """One command in a new folder below `folder`. Raises OSError where the program does not start."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    prepare(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    done = subprocess.run([program, *arguments], cwd=place, capture_output=True, text=True)
    wrote = [path for path in sorted(place.rglob("*")) if path.is_file() and before.get(path) != path.stat().st_mtime_ns]
    output = comparable(json.loads(done.stdout)) if done.stdout.startswith(("{", "[")) else None
    return Outcome(done.returncode, output, {str(path.relative_to(place)): content(path) for path in wrote})


def content(path: Path) -> object:
    """What of a written file has to be equal: nothing of pages and tables, which are prose."""
    if path.suffix == ".json":
        return comparable(json.loads(path.read_text()))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    return path.read_bytes() if path.suffix == ".onnx" else None


def comparable(value: Any) -> object:
    """JSON without what may differ between versions."""
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items() if key not in IGNORED}
    return [comparable(inner) for inner in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        for arguments in commands():
            old, new = (run(program.absolute(), arguments, Path(folder)) for program in (options.old, options.new))
            parts = [name for name in ("code", "output") if getattr(old, name) != getattr(new, name)]
            parts += [name for name in sorted({*old.files, *new.files}) if old.files.get(name, ()) != new.files.get(name, ())]
            different += bool(parts)
            print(f"{'DIFFERS in ' + ', '.join(parts) if parts else 'equal'}  ({old.code})  {shlex.join(arguments)}", flush=True)
    print(f"{different} commands differ")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
