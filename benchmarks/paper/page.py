"""Write docs/paper.md: each claim of the paper, what was measured, and the verdict.

    python -m benchmarks.paper.page --out docs/paper.md [--eval DIR]

Figures go into a folder beside the page. DIR holds networks and labelled data that this project does not ship (`Context.eval`);
without it, sections that need them say so.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.paper.section import Context, Section, Spec

SECTIONS = ("rows", "linear", "definition", "combined", "iterative", "patterns", "eight_bit", "detector")
"""Modules, in the order of the page."""

VERDICTS = ("holds", "differs, because", "cannot be tested here, because")
"""How a verdict begins."""

HEAD = """# The paper, reproduced

*Best of both, structured and unstructured sparsity in neural networks* (EuroMLSys 2023,
[doi 10.1145/3578356.3592583](https://doi.org/10.1145/3578356.3592583)) is where this project starts from. This page tries its
claims. All of it, numbers and verdicts included, is written by `make paper` (`benchmarks/paper/`), in a quarter of an hour on two
cores; it also installs PyTorch, scikit-learn and scikit-image. ResNet-20 and the trained detector are not shipped: `make paper
EVAL=FOLDER` takes them from a folder. Latencies are predictions of the targets `cv22`, `cv22-skiplimit` and `cv22-stream`, which
were fitted to two rows of the paper ([backends.md](backends.md)): that these rows come out proves little, and that other claims
do, a little more."""


def made(name: str, context: Context) -> Section:
    """A section. Raises SystemExit for a verdict that is none."""
    found: Section = import_module(f"benchmarks.paper.{name}").section(context)
    if not found.verdict.startswith(VERDICTS):
        raise SystemExit(f"paper: section {name} says {found.verdict!r}, which is no verdict")
    return found


def page(sections: Sequence[Section], folder: str) -> str:
    """The text of the page; figures are in `folder`."""
    rows = [f"| [{s.title}](#{anchor(s.title)}) | {s.verdict} |" for s in sections]
    parts = [HEAD, "\n".join(["| claim | verdict |", "|---|---|", *rows])]
    for s in sections:
        pictures = [f"![{s.title}]({folder}/{name}.svg)" for name in s.figures]
        parts += [f"## {s.title}", f"> {s.claim}", f"**Verdict: {s.verdict}.**", "\n".join(s.lines), *pictures]
    return "\n\n".join(parts) + "\n"


def anchor(title: str) -> str:
    """A title as GitHub's link to it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def svg(figure: Spec) -> str:
    """A figure on white."""
    import vl_convert

    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    drawn: str = vl_convert.vegalite_to_svg({"$schema": schema, "background": "white", "padding": 8, **figure})
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eval", type=Path)
    options = parser.parse_args()
    out: Path = options.out
    figures = out.with_suffix("")
    sections = []
    with tempfile.TemporaryDirectory() as work:
        for name in SECTIONS:
            start = time.perf_counter()
            sections.append(made(name, Context(Path(work), options.eval)))
            print(f"{name}: {sections[-1].verdict} ({time.perf_counter() - start:.0f} s)", flush=True)
    figures.mkdir(parents=True, exist_ok=True)
    for s in sections:
        for name, figure in s.figures.items():
            (figures / f"{name}.svg").write_text(svg(figure))
    out.write_text(page(sections, figures.name))


if __name__ == "__main__":
    main()
