"""Top-1 accuracy of a picture classifier in int8, dense and pruned to half of its operations, over draws of calibration pictures.

    python -m benchmarks.accuracy.int8 run --eval FOLDER --onnxsparse onnxsparse --onnxruntime ORT/bin/python --out accuracy.json
    python -m benchmarks.accuracy.int8 table accuracy.json --out benchmarks/results/int8-accuracy.md

from the project's root; the interpreters are those of benchmarks/peers/int8.py. FOLDER holds resnet20_cifar10.onnx,
cifar10_calib512.npz (`x`, bytes, N x H x W x C) and cifar10_test2000.npz (`x`, and labels `y`), which this project does not ship.
A draw is 256 of the calibration pictures. --only 'onnxsparse: *' runs some methods; the command given with --onnxsparse prunes
too.
"""

import argparse
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.int8_methods import METHODS, Method, Tools, add_tools, given_tools, one_line, quantize, select
from benchmarks.peers.int8_runtime import session
from benchmarks.tables import heading, saved, table_row

MODEL, CALIBRATION, TEST = "resnet20_cifar10.onnx", "cifar10_calib512.npz", "cifar10_test2000.npz"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPARSITY_OP = 0.5
DRAWS, DRAWN = 5, 256
BATCH = 100


@dataclass(frozen=True)
class Row:
    """One model in one method on one draw. `right` has a 1 for every test picture whose label the largest logit names."""

    label: str
    model: str
    draw: int = 0
    fault: str = ""
    right: str = ""


def normal(pictures: np.ndarray) -> np.ndarray:
    """N x C x H x W."""
    scaled = (pictures.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def right(model: Path, folder: Path) -> str:
    with np.load(folder / TEST) as test:
        x, labels = normal(test["x"]), test["y"]
    runner = session(model, plain=True)
    value = runner.get_inputs()[0]
    size = value.shape[0] if isinstance(value.shape[0], int) else BATCH
    logits = np.concatenate([runner.run(None, {value.name: x[i : i + size]})[0] for i in range(0, len(x), size)])
    return "".join("1" if found else "0" for found in logits.argmax(1) == labels)


def write_draws(folder: Path, target: Path, draws: int) -> list[Path]:
    """One npz per draw, N x 1 x C x H x W, the batch an axis of its own."""
    with np.load(folder / CALIBRATION) as data:
        x = normal(data["x"])[:, None]
    files = [target / f"calib{seed}.npz" for seed in range(draws)]
    for seed, path in enumerate(files):
        np.savez(path, x=x[np.random.default_rng(seed).permutation(len(x))[:DRAWN]])
    return files


def prune(command: str, source: Path, target: Path) -> str:
    """What went wrong, if anything."""
    arguments = ["prune", str(source), str(target), "--sparsity-op", str(SPARSITY_OP), "--no-compare"]
    done = subprocess.run([*shlex.split(command), *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]


def rows(folder: Path, tools: Tools, methods: Sequence[Method], draws: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        work, models = Path(name), {"dense": folder / MODEL}
        fault = prune(tools["onnxsparse"], models["dense"], work / "pruned.onnx") if "onnxsparse" in tools else "not run"
        if fault:
            yield Row("float", "pruned", fault=fault)
        else:
            models["pruned"] = work / "pruned.onnx"
        yield from (Row("float", kind, right=right(path, folder)) for kind, path in models.items())
        for draw, data in enumerate(write_draws(folder, work, draws)):
            for method in methods:
                for kind, path in models.items():
                    yield int8_row(method, kind, draw, tools, path, data, folder)


def int8_row(method: Method, kind: str, draw: int, tools: Tools, model: Path, data: Path, folder: Path) -> Row:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "int8.onnx"
        cost = quantize(method, tools, model, target, data)
        try:
            return Row(method.label, kind, draw, cost.fault, "" if cost.fault else right(target, folder))
        except Exception as error:  # whatever onnxruntime raises is the finding
            return Row(method.label, kind, draw, f"onnxruntime: {one_line(error)}")


# What came out


def drop(before: str, after: Sequence[str]) -> tuple[float, float, float]:
    """Points lost: the mean, and half of its 95 % interval for other pictures and draws, and for other pictures alone.

    d[i, j] is 100 × (right in float − right in int8) for picture i and draw j, both crossed and random (two-way, one value per
    cell), so the variance of the mean is var(picture means) / N + var(draw means) / D − var(residuals) / (N·D).
    """
    found = np.array([[100 * (int(b) - int(a)) for b, a in zip(before, draw, strict=True)] for draw in after], float).T
    pictures, draws, total = found.mean(1), found.mean(0), found.mean()
    of_pictures = pictures.var(ddof=1) / len(pictures)
    if len(draws) < 2:
        return float(total), float(1.96 * of_pictures**0.5), float(1.96 * of_pictures**0.5)
    residuals = found - pictures[:, None] - draws[None, :] + total
    noise = (residuals**2).sum() / (len(pictures) - 1) / (len(draws) - 1) / found.size
    both = max(of_pictures + draws.var(ddof=1) / len(draws) - noise, of_pictures)
    return float(total), float(1.96 * both**0.5), float(1.96 * of_pictures**0.5)


def top1(right: str) -> float:
    return 100 * right.count("1") / len(right)


def line(label: str, kind: str, found: Sequence[Row], reference: Row | None) -> str:
    these = [row for row in found if row.label == label and row.model == kind]
    good = [row.right for row in these if row.right]
    if not good or reference is None:
        fault = these[0].fault if these and these[0].fault else "not run"
        return table_row((label, kind, fault, None, None))
    lost, half, pictures = drop(reference.right, good)
    mean = sum(map(top1, good)) / len(good)
    interval = f"{lost - half:.2f} to {lost + half:.2f} (±{pictures:.2f} from the pictures)"
    return table_row((label, kind, f"{mean:.2f}", f"{lost:.2f}", interval))


PREFACE = f"""# Accuracy in int8

Made by `benchmarks/accuracy/int8.py`: {MODEL} on {{count}} labelled pictures, dense and pruned by
`onnxsparse prune --sparsity-op {SPARSITY_OP}`, without calibration or training; int8 over {{draws}} draws of {DRAWN} unlabelled
pictures. Top-1 in percent is the mean over the draws. The drop is in points from the float model of the same kind, its 95 %
interval paired over pictures and draws: with d the drop of picture i in draw j, mean(d) ± 1.96 √(var(picture means) / N +
var(draw means) / D − var(residuals) / (N·D)).
"""
COLUMNS = ("method", "model", "top-1 %", "drop", "95 % interval")


def table(paths: Sequence[Path]) -> str:
    found = [Row(**row) for path in paths for row in json.loads(path.read_text())]
    found = [row for row in found if row.fault != "not run"]
    floats = {row.model: row for row in found if row.label == "float" and row.right}
    tried = {row.label for row in found}
    count = max((len(row.right) for row in found), default=0)
    lines = [PREFACE.format(count=count, draws=max((one.draw + 1 for one in found), default=0)), *heading(COLUMNS)]
    for kind in ("dense", "pruned"):
        lines.append(table_row(("float", kind, f"{top1(floats[kind].right):.2f}" if kind in floats else "not run", None, None)))
        lines += [line(method.label, kind, found, floats.get(kind)) for method in METHODS if method.label in tried]
    left = [method.label for method in METHODS if method.label not in tried]
    return "\n".join(lines) + (f"\n\nNot run: {'; '.join(left)}." if left else "") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run, shown = (commands.add_parser(name) for name in ("run", "table"))
    run.add_argument("--eval", type=Path, required=True, help="folder of the model and the pictures")
    run.add_argument("--draws", type=int, default=DRAWS)
    add_tools(run)
    shown.add_argument("results", type=Path, nargs="+")
    for part in (run, shown):
        part.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "table":
        options.out.write_text(table(options.results))
        return
    for row in saved(rows(options.eval, given_tools(options), select(options.only), options.draws), options.out):
        print(row.label, row.model, row.draw, row.fault or f"{top1(row.right):.2f} %", flush=True)


if __name__ == "__main__":
    main()
