"""Accuracy of an image classifier with half of its MACs, by choice of channels and with and without refit; and other models.

    python -m benchmarks.accuracy.channels MODEL.onnx CALIB.npz TEST.npz --out TABLE.md \\
        --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 \\
        --other DIGITS.onnx DIGITS.npz:x --other DETECTOR.onnx CALIB/ TEST/ PREPROCESS.toml 1,3,320,320

CALIB.npz and TEST.npz are as in repair.py. Another model has its data, and where needed test data, a file for preprocessing and
the shape of its input. The figures in benchmarks/results/resnet20-channels.md are of the ResNet-20 of resnet20-repair.md, this
project's digits classifier, nudenet (320n) on 16 photographs and EfficientNet-Lite0 on 336 pictures.
"""

import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.classifier import Classifier, parser
from benchmarks.tables import table
from onnxsparse import Fold, Model, PruneChannels, layers, load
from onnxsparse.runtime.compare import compare

MACS, OTHERS_MACS = 0.5, 0.7
"""Share of the operations that stays: of the classifier, and of other models."""

ROUNDINGS = (8, 1)
SEEDS = (0, 1, 2)
"""Seeds of the default; other ways are measured with the first."""

WAYS: dict[str, dict[str, Any]] = {
    "l1, means into biases": {"importance": "l1", "repair": False},
    "activation, means into biases": {"importance": "activation", "repair": False},
    "output, means into biases": {"importance": "output", "repair": False},
    "l1, refit": {"importance": "l1"},
    "activation, refit": {"importance": "activation"},
    "output, refit (the default)": {},
}


def of_classifier(classifier: Classifier) -> Iterator[tuple[str, ...]]:
    """Way, rounding, share of the operations, top-1 of every seed, their mean, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(data := Path(folder) / "calib.npy", classifier.learned)
        for rounding in ROUNDINGS:
            for way, setting in WAYS.items():
                seeds = SEEDS[:1] if setting else SEEDS
                found, seconds = [], []
                for seed in seeds:
                    model, start = folded(classifier.path), time.perf_counter()
                    whole = macs(model)
                    PruneChannels(macs=MACS, round_to=rounding, data=data, seed=seed, **setting).run(model)
                    seconds.append(time.perf_counter() - start)
                    found.append(classifier.top1(model))
                each = ", ".join(f"{value:.2f}" for value in found)
                share, mean = f"{macs(model) / whole:.1%}", f"{np.mean(found):.2f}"
                print(row := (way, str(rounding), share, each, mean, f"{np.mean(seconds):.0f}"), flush=True)
                yield row


def of_others(others: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Model, way, share of the operations, SQNR of the worst slice and of each output in dB, seconds."""
    for path, data, *more in others:
        test, preprocess, shape = [*more, None, None, None][:3]
        for way, setting in WAYS.items():
            model = folded(Path(path), shape)
            dense, start = model.copy(), time.perf_counter()
            files = {"data": data, "test": test, "preprocess": preprocess}
            step = PruneChannels(macs=OTHERS_MACS, **files, **setting)  # type: ignore[arg-type]  # texts become paths
            step.run(model)
            seconds = time.perf_counter() - start
            found = compare(dense, model, step.split(dense)[1])
            outputs = ", ".join("equal" if o.sqnr_db is None else f"{o.sqnr_db:.1f}" for o in found.outputs)
            worst = "equal" if found.worst_sqnr_db is None else f"{found.worst_sqnr_db:.1f}"
            print(row := (Path(path).name, way, f"{macs(model) / macs(dense):.1%}", worst, outputs, f"{seconds:.0f}"), flush=True)
            yield row


def folded(path: Path, shape: str | None = None) -> Model:
    """A model whose normalisations are folded. `shape`: of its input."""
    model = load(path)
    if shape is not None:
        model.bind((shape,))
    Fold().run(model)
    return model


def macs(model: Model) -> int:
    found = layers(model).totals.macs
    assert found is not None
    return found


def main() -> None:
    taking = parser(__doc__)
    taking.add_argument("--other", action="append", nargs="+", default=[])
    options = taking.parse_args()
    classifier = Classifier.read(options)
    own = table(("channels", "round_to", "MACs", "top-1", "mean", "seconds"), list(of_classifier(classifier)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    others = table(("model", "channels", "MACs", "worst slice, dB", "outputs, dB", "seconds"), list(of_others(options.other)))
    lines = [
        f"# Channels of {options.model.name} and other models",
        "",
        f"Made by `benchmarks/accuracy/channels.py`: top-1 in per cent on {len(classifier.labels)} pictures at --macs {MACS}; "
        f"dense: {classifier.top1():.2f}. Of {len(classifier.learned)} pictures a tenth was held out; the others were learned "
        f"from, without labels. Several figures are of several seeds. Peak memory: {peak:.0f} MB.",
        "",
        *own,
        "",
        f"Other models at --macs {OTHERS_MACS}, on samples that nothing was learned from:",
        "",
        *others,
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
