"""Ways to quantize one model: onnxsparse's command line and the peers, each in a process of its own, what it costs measured.

The other int8 scripts use this one; a peer's interpreter runs it as a file, so it imports onnxsparse and the peers only where
used. To try a single one:

    PEER/bin/python benchmarks/peers/int8_methods.py onnxruntime in.onnx out.onnx calib.npz Entropy QUInt8

A calibration file is an npz with one array under the input's name, a sample along its first axis.
"""

import fnmatch
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LIMIT_S = 1800

COST = """
import json, os, resource, subprocess, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
start = time.perf_counter()
try:
    done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=float(sys.argv[1]))
    code, last = done.returncode, done.stderr.decode(errors="replace").strip().splitlines()[-1:]
except subprocess.TimeoutExpired:
    code, last = -1, ["time limit"]
except OSError as error:
    code, last = -1, [str(error)]
used = resource.getrusage(resource.RUSAGE_CHILDREN)
fault = "" if code == 0 else (last or [f"exit code {code}"])[0]
print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024,
                  "wall_s": time.perf_counter() - start, "fault": fault}))
"""
"""Runs a command on one core. In a small process: after a fork, ru_maxrss starts at the size of the process that forked."""


@dataclass(frozen=True)
class Method:
    """A row of a table: a tool and its settings (for onnxsparse, arguments of its command line)."""

    name: str
    tool: str
    settings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.tool}: {self.name}"


def ours(name: str, arguments: str) -> Method:
    return Method(name, "onnxsparse", tuple(arguments.split()))


X86, CV22 = "--target onnxruntime-x86", "--target cv22"
PLAIN = "--no-correct-bias"
OURS = (
    ours("x86, minmax", f"{X86} {PLAIN} --method minmax"),
    ours("x86, percentile", f"{X86} {PLAIN} --method percentile"),
    ours("x86, entropy", f"{X86} {PLAIN} --method entropy"),
    ours("x86, mse", f"{X86} {PLAIN} --method mse"),
    ours("x86, as it comes", X86),
    ours("x86, equalized as well", f"{X86} --equalize"),
    ours("cv22, minmax", f"{CV22} {PLAIN} --method minmax"),
    ours("cv22, mse", f"{CV22} {PLAIN} --method mse"),
    ours("cv22, mse, per tensor", f"{CV22} {PLAIN} --method mse --per-tensor"),
    ours("cv22, as it comes", CV22),
    ours("cv22, cube, biases corrected", f"{CV22} --method cube"),
    ours("cv22, minmax, biases corrected", f"{CV22} --method minmax"),
    ours("cv22, equalized as well", f"{CV22} --equalize"),
    ours("cv22, 5 wide layers as well", f"{CV22} --wide-layers 5"),
    ours("cv22, 20 wide layers, minmax", f"{CV22} --wide-layers 20 --method minmax"),
    ours("cv22, ranges by the outputs", f"{CV22} --method output"),
    ours("cv22, activations of 16 bits", f"{CV22} --activation-bits 16"),
    ours("x86, gptq", f"{X86} --rounding gptq"),
    ours("cv22, gptq", f"{CV22} --rounding gptq"),
    ours("cv22, power of two, gptq", f"{CV22} --power-of-two all --rounding gptq"),
    ours("cv22, power of two", f"{CV22} {PLAIN} --power-of-two all"),
    ours("cv22, power of two, biases corrected", f"{CV22} --power-of-two all"),
)
"""onnxsparse's variants; a new one is a line here."""

PEERS = (
    *(
        Method(f"{method}, {'uint8' if kind == 'QUInt8' else 'int8'}", "onnxruntime", (method, kind))
        for method in ("MinMax", "Percentile", "Entropy")
        for kind in ("QUInt8", "QInt8")
    ),
    Method("performance preset", "nncf", ("PERFORMANCE", "fast")),
    Method("mixed preset", "nncf", ("MIXED", "fast")),
    Method("mixed preset, full bias correction", "nncf", ("MIXED", "full")),
    Method("max", "modelopt", ("max",)),
    Method("entropy", "modelopt", ("entropy",)),
    Method("enhanced ranges", "aimet"),
    Method("cross-layer equalization", "aimet", ("cle",)),
    Method("sequential MSE", "aimet", ("seqmse",)),
    Method("AdaRound, 10 000 iterations", "aimet", ("adaround",)),
    Method("U8S8", "quark", ("U8S8_AAWS",)),
    Method("U8S8, cross-layer equalization", "quark", ("U8S8_AAWS", "cle")),
    Method("U8S8, biases corrected", "quark", ("U8S8_AAWS", "bias")),
    Method("U8S8, AdaRound", "quark", ("U8S8_AAWS_ADAROUND",)),
    Method("U8S8, AdaQuant", "quark", ("U8S8_AAWS_ADAQUANT",)),
    Method("TensorRT rules", "ppq"),
)

METHODS = (*PEERS, *OURS)


@dataclass(frozen=True)
class Cost:
    """Of a whole process, imports with it. `fault` is empty if it worked; the numbers are unknown if it did not start."""

    cpu_s: float | None = None
    peak_mb: float | None = None
    wall_s: float | None = None
    fault: str = ""


Tools = Mapping[str, str]
"""Tool → the interpreter that has it; for onnxsparse, its command."""


def select(patterns: Sequence[str]) -> tuple[Method, ...]:
    """Those whose label one of the globs matches; all without a glob."""
    return tuple(m for m in METHODS if not patterns or any(fnmatch.fnmatchcase(m.label, p) for p in patterns))


def quantize(method: Method, tools: Tools, source: Path, target: Path, data: Path, limit_s: float = LIMIT_S) -> Cost:
    """Run one method on one model; the file is written to `target` if Cost has no fault."""
    if method.tool not in tools:
        return Cost(fault="not run")
    files = [str(source), str(target)]
    if method.tool == "onnxsparse":
        command = [*shlex.split(tools[method.tool]), "quantize", *files, "--data", str(data), *method.settings]
    else:
        command = [tools[method.tool], __file__, method.tool, *files, str(data), *method.settings]
    done = subprocess.run([sys.executable, "-S", "-c", COST, str(limit_s), *command], capture_output=True, text=True, check=True)
    cost = Cost(**json.loads(done.stdout))
    fault = one_line(cost.fault) or ("" if target.exists() else "wrote no file")
    return replace(cost, fault=fault)


def one_line(message: object) -> str:
    """For a cell of a table."""
    return " ".join(str(message).split())[:200].replace("|", "/")


def add_tools(parser: Any) -> None:
    """The options that say where the tools are; one left out makes its rows say 'not run'."""
    for tool in dict.fromkeys(method.tool for method in METHODS):
        meaning = "its command, e.g. 'onnxsparse'" if tool == "onnxsparse" else "an interpreter that has it"
        parser.add_argument(f"--{tool}", metavar="COMMAND" if tool == "onnxsparse" else "PYTHON", help=meaning)
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="methods by label, e.g. 'onnxruntime: *'")


def given_tools(options: Any) -> Tools:
    names = dict.fromkeys(method.tool for method in METHODS)
    return {tool: getattr(options, tool) for tool in names if getattr(options, tool)}


# In the peer's interpreter


def feeds(data: str, source: str) -> Iterator[dict[str, Any]]:
    """A sample at a time, with a batch axis of one if it has none."""
    import numpy as np
    import onnx

    model = onnx.load(source, load_external_data=False)
    (value,) = [v for v in model.graph.input if v.name not in {i.name for i in model.graph.initializer}]
    with np.load(data) as arrays:
        (samples,) = arrays.values()
    rank = len(value.type.tensor_type.shape.dim)
    for sample in samples:
        yield {value.name: sample if sample.ndim == rank else sample[None]}


def quantize_onnxruntime(source: str, target: str, data: str, method: str, kind: str) -> None:
    """Per channel, int8 weights; uint8 activations as they come, int8 ones symmetric."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # without types
        samples = feeds(data, source)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.samples, None)

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType[kind],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options={"ActivationSymmetric": kind == "QInt8"},
    )


def quantize_nncf(source: str, target: str, data: str, preset: str, correction: str) -> None:
    import nncf  # type: ignore[import-not-found]  # in the peer's interpreter only
    import onnx

    samples = list(feeds(data, source))
    model = nncf.quantize(
        onnx.load(source),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset[preset],
        subset_size=len(samples),
        fast_bias_correction=correction == "fast",
    )
    onnx.save(model, target)


def quantize_modelopt(source: str, target: str, data: str, method: str) -> None:
    import numpy as np
    from modelopt.onnx.quantization import quantize as run  # type: ignore[import-not-found]  # in the peer's interpreter only

    samples = list(feeds(data, source))
    stacked = {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}
    run(
        source,
        quantize_mode="int8",
        calibration_data=stacked,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=target,
    )


def quantize_aimet(source: str, target: str, data: str, *steps: str) -> None:
    """Per channel, int8 weights, uint8 activations; ranges by its enhanced scheme, or extremes.

    `steps`: cle, seqmse, adaround.
    """
    import onnx
    from aimet_onnx import (  # type: ignore[import-not-found]  # in the peer's interpreter only
        QuantizationSimModel,
        apply_adaround,
        apply_seq_mse,
    )
    from aimet_onnx.common.quantsim_config.utils import (  # type: ignore[import-not-found]  # as above
        get_path_for_per_channel_config,
    )
    from aimet_onnx.cross_layer_equalization import equalize_model  # type: ignore[import-not-found]  # as above

    model, samples = onnx.load(source), list(feeds(data, source))
    if "cle" in steps:
        equalize_model(model)
    scheme = "min_max" if "seqmse" in steps else "tf_enhanced"  # its sequential MSE takes no other
    sim = QuantizationSimModel(model, quant_scheme=scheme, config_file=get_path_for_per_channel_config())
    if "seqmse" in steps:
        apply_seq_mse(sim, samples)
    if "adaround" in steps:
        apply_adaround(sim, samples)
    sim.compute_encodings(samples)
    onnx.save(sim.to_onnx_qdq(), target)


def quantize_quark(source: str, target: str, data: str, config: str, *steps: str) -> None:
    """A configuration of amd-quark by its name, per channel. `steps`: cle, bias. Its GPTQ quantizes no activations.

    An opset without scales per channel is raised first.
    """
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from quark.onnx import ModelQuantizer  # type: ignore[import-not-found]  # in the peer's interpreter only
    from quark.onnx.quantization.config import Config, get_default_config  # type: ignore[import-not-found]  # as above

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # without types
        samples = feeds(data, source)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.samples, None)

        def reset_iter(self) -> None:
            self.samples = feeds(data, source)

    model = onnx.load(source)
    if next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")) < 13:  # it has no scales per channel
        source = f"{target}.opset13.onnx"
        onnx.save(onnx.version_converter.convert_version(model, 13), source)
    chosen = get_default_config(config)
    chosen.per_channel = True
    chosen.include_cle = "cle" in steps
    if "bias" in steps:
        chosen.extra_options["BiasCorrection"] = True
    ModelQuantizer(Config(global_quant_config=chosen)).quantize_model(source, target, Reader())


def quantize_ppq(source: str, target: str, data: str) -> None:
    """esp-ppq by its rules for TensorRT, written with QuantizeLinear and DequantizeLinear."""
    import torch
    from esp_ppq.api import export_ppq_graph, quantize_onnx_model  # type: ignore[import-not-found]  # in the peer's interpreter only
    from esp_ppq.core import TargetPlatform  # type: ignore[import-not-found]  # as above

    samples = [torch.from_numpy(array) for sample in feeds(data, source) for array in sample.values()]
    graph = quantize_onnx_model(
        onnx_import_file=source,
        calib_dataloader=samples,
        calib_steps=len(samples),
        input_shape=list(samples[0].shape),
        platform=TargetPlatform.TRT_INT8,
        device="cpu",
        collate_fn=lambda batch: batch,
    )
    export_ppq_graph(graph, platform=TargetPlatform.ONNXRUNTIME, graph_save_to=target)


CHILDREN: Mapping[str, Callable[..., None]] = {
    "onnxruntime": quantize_onnxruntime,
    "nncf": quantize_nncf,
    "modelopt": quantize_modelopt,
    "aimet": quantize_aimet,
    "quark": quantize_quark,
    "ppq": quantize_ppq,
}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])
