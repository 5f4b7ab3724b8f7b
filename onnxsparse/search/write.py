"""What a search writes: a folder for every point of the front, a page, and a record for machines."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.report.figures import to_svg
from onnxsparse.cost.report.outputs import ReportFiles, contents
from onnxsparse.ir.files import Staging
from onnxsparse.ir.model import load
from onnxsparse.records import json_text, text_writer
from onnxsparse.search.front import Front, Point, excess
from onnxsparse.search.page import front_figure, page
from onnxsparse.search.trial import read_outcome, recipe

SCHEMA = 1
"""Version of the format of search.json."""


def written(front: Front) -> None:
    """Write the points, then index.html, front.svg and search.json, and remove points that are no longer on the front.

    A point's folder is there as a whole or not at all.
    """
    place = front.folder / "points"
    place.mkdir(parents=True, exist_ok=True)
    for point in front.points:
        kept = None if point.folder.exists() else read_outcome(point.entry)
        if kept is not None and kept.files:
            write_point(front, point, kept.files)
    with Staging() as staging:
        staging.write(front.folder / "index.html", text_writer(page(front)))
        staging.write(front.folder / "front.svg", text_writer(to_svg(front_figure(front))))
        staging.write(front.folder / "search.json", text_writer(json_text(front_json(front))))
    names = {point.folder.name for point in front.points}
    for folder in place.iterdir():
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def write_point(front: Front, point: Point, model_files: Mapping[str, bytes]) -> None:
    """Write the model, the recipe and the report of a point, and rename its folder into place."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=point.folder.parent) as name:
        made = Path(name) / "point"
        made.mkdir()
        for file, content in model_files.items():
            (made / file).write_bytes(content)
        model = load(made / "model.onnx").bind(front.subject.input_shape, front.subject.dim)
        (made / "recipe.yaml").write_text(recipe_text(front, point), encoding="utf-8")
        files = ReportFiles(json=made / "report.json", html=made / "report.html")
        for path, text in contents(files, deploy_on(model, front.subject.backend), f"point {point.number:03d}"):
            path.write_text(text, encoding="utf-8")
        made.rename(point.folder)


def recipe_text(front: Front, point: Point) -> str:
    """The recipe as YAML, with the command that gives the point's model."""
    head = f"# onnxsparse run {point.folder / 'recipe.yaml'} {front.subject.model} out.onnx\n"
    text: str = yaml.safe_dump(recipe(front.subject, point.outcome.steps), sort_keys=False, width=1000)
    return head + text


def front_json(front: Front) -> dict[str, object]:
    """The front as docs/json.md describes it."""
    subject = front.subject
    return {
        "schema": SCHEMA,
        "model": subject.model.name,
        "target": subject.target,
        "budgets": {budget.name: budget.value for budget in ([] if subject.by_drop else subject.budgets)},
        "max_drop": subject.max_drop,
        "cost": subject.costs.cost_key,
        "harm": subject.harm,
        "unpruned": front.dense,
        "floor": front.floor,
        "best": None if front.best is None else front.best.number,
        "verdict": front.verdict,
        "interrupted": front.interrupted,
        "points": [point_json(front, point) for point in front.points],
        "others": [point_json(front, point) for point in front.others],
        "failed": [{"params": vars(o.params), "reason": o.fault} for o in front.failed],
    }


def point_json(front: Front, point: Point) -> dict[str, object]:
    """One point."""
    outcome = point.outcome
    return {
        "number": point.number,
        "kind": point.kind,
        "within": excess(front.subject, outcome) <= 0,
        "cost": point.cost,
        "divergence": outcome.loss,
        "drop": outcome.drop,
        "samples": outcome.samples,
        "params": vars(outcome.params),
        "passes": recipe(front.subject, outcome.steps)["passes"],
        "totals": dict(outcome.totals),
    }
