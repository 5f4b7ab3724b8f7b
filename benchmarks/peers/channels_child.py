"""One model in one tool: what benchmarks/peers/channels.py runs in the interpreter that has the tool.

A peer's interpreter runs this as a file, so it imports onnxsparse and the peers only where used.
"""

import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import onnx

RATIO = 0.5


Shapes = Mapping[str, list[int]]


def short(error: object) -> str:
    """One line that says what an exception was."""
    name = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?", "", str(error))
    return (name + " ".join(text.split()))[:200]


def prune_onnx(source: str, target: str) -> dict[str, object]:
    """In the peer's interpreter: simplify, prune, write. `changed` is against the simplified graph."""
    import onnxsim  # type: ignore[import-not-found]  # in the peer's interpreter only

    start = time.perf_counter()
    simplified, _ = onnxsim.simplify(onnx.load(source))
    pruned = onnxsim.apply_structured_pruning(simplified, sparsity=RATIO)
    onnx.save(pruned, target)
    seconds = time.perf_counter() - start
    changed = list(stored_shapes(simplified.graph)) != list(stored_shapes(pruned.graph))
    return {"worked": True, "changed": changed, "seconds": seconds}


def prune_ours(source: str, target: str, sizes: str, cut_norms: str) -> dict[str, object]:
    """In the project's interpreter: load, cut, write."""
    from onnxsparse import Pipeline, load
    from onnxsparse.passes.prune_channels import PruneChannels

    start = time.perf_counter()
    model = load(source).bind(json.loads(sizes))
    step = PruneChannels(ratio=RATIO, round_to=1, cut_norms=bool(int(cut_norms)), verify=False)
    report = Pipeline([step]).run(model)
    model.save(target)
    return {"worked": True, "changed": report.steps[0].rewrote, "seconds": time.perf_counter() - start}


def judge_onnx(source: str, target: str, given: str, sizes: str) -> dict[str, object]:
    """In the project's interpreter: whether the pruned graph gives outputs of the same shapes, and the MACs it keeps."""
    shapes = json.loads(given)
    expected = output_shapes(source, shapes)
    try:
        found = output_shapes(target, shapes)
    except Exception as error:  # whatever onnxruntime raises is the finding
        return {"runs": False, "fault": f"onnxruntime: {short(error)}"}
    if found != expected:
        return {"runs": False, "fault": f"output shapes {found} instead of {expected}"}
    before, after = (macs(path, json.loads(sizes)) for path in (source, target))
    return {"runs": True, "macs_kept": after / before if before and after is not None else None}


def stored_shapes(graph: onnx.GraphProto) -> Iterator[tuple[int, ...]]:
    """Of the initializers and the Constant nodes of a graph and of the graphs inside its nodes."""
    yield from (tuple(tensor.dims) for tensor in graph.initializer)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield tuple(attribute.t.dims)
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            yield from stored_shapes(inner)


def output_shapes(path: str, shapes: Shapes) -> list[list[int]]:
    """Of one run on seeded inputs: normal floats, whole numbers below 20, and 16000 for the scalar, a sampling rate."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng, feed = np.random.default_rng(0), {}
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
    for value in session.get_inputs():
        kind, shape = kinds[value.type], shapes[value.name]
        whole = rng.integers(0, 20, shape) if shape else np.array(16000)
        feed[value.name] = (rng.standard_normal(shape) if kind is np.float32 else whole).astype(kind)
    return [list(np.shape(output)) for output in session.run(None, feed)]


def macs(path: str, sizes: list[str]) -> int | None:
    """Of a model with its inputs at these sizes; a pruned model may have lost some of the inputs."""
    from onnxsparse import layers, load

    model = load(path)
    inputs = {value.name for value in model.proto.graph.input}
    return layers(model.bind([size for size in sizes if size.partition("=")[0] in inputs])).totals.macs


def names_torch(script: str) -> dict[str, object]:
    return {"names": list(zoo_script(script).registry())}


def zoo_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_zoo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.stub_torchvision()
    return module


def prune_torch(script: str, name: str) -> dict[str, object]:
    """In the peer's interpreter: build the architecture, prune it, run it. Seconds are of the pruner alone."""
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found]  # in the peer's interpreter only

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    model, inputs = zoo_script(script).build(name)
    expected, ignored = tensor_shapes(model(*inputs)), output_layers(model, inputs)
    before, widths = tp.utils.count_ops_and_params(model, inputs)[0], [p.shape for p in model.parameters()]
    row: dict[str, object] = {"worked": False}
    importance, start = tp.importance.GroupMagnitudeImportance(p=2), time.perf_counter()
    try:
        tp.pruner.MetaPruner(model, inputs, importance, pruning_ratio=RATIO, ignored_layers=ignored, round_to=None).step()
        row |= {"worked": True, "changed": widths != [p.shape for p in model.parameters()]}
    except Exception as error:  # whatever the peer raises is the finding
        row |= {"fault": f"prune: {short(error)}"}
    row |= {"seconds": time.perf_counter() - start}
    return row | run_torch(model, inputs, expected, before) if row["worked"] else row


def run_torch(model: Any, inputs: tuple[Any, ...], expected: list[list[int]], before: float) -> dict[str, object]:
    """Whether the pruned module gives outputs of the same shapes, and the MACs it keeps."""
    import torch_pruning as tp

    try:
        found = tensor_shapes(model(*inputs))
    except Exception as error:  # whatever the pruned module raises is the finding
        return {"fault": f"forward: {short(error)}"}
    if found != expected:
        return {"fault": f"output shapes {found} instead of {expected}"}
    return {"runs": True, "macs_kept": tp.utils.count_ops_and_params(model, inputs)[0] / before}


def output_layers(model: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """The Linear and convolution layers with no other such layer between them and an output of the model."""
    from torch import nn

    made: dict[Any, Any] = {}

    def note(module: Any, _: object, output: Any) -> None:
        made[output.grad_fn] = module

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    pending = [tensor.grad_fn for tensor in tensors(model(*inputs))]
    for hook in hooks:
        hook.remove()
    found, seen = set(), {None}
    while pending:
        step = pending.pop()
        if step in made:
            found.add(made[step])
        elif step not in seen:
            seen.add(step)
            pending.extend(source for source, _ in step.next_functions)
    return [layer for layer in layers if layer in found]


def tensors(value: Any) -> list[Any]:
    """The tensors of what a module returned, in order."""
    if hasattr(value, "grad_fn"):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for each in values for tensor in tensors(each)]


def tensor_shapes(value: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors(value)]


CHILDREN: Mapping[str, Callable[..., dict[str, object]]] = {
    "_prune-onnx": prune_onnx,
    "_prune-ours": prune_ours,
    "_judge-onnx": judge_onnx,
    "_names-torch": names_torch,
    "_prune-torch": prune_torch,
}
"""Command → what it does, in the interpreter that has the packages."""


def child(command: str, *arguments: str) -> dict[str, object]:
    try:
        return CHILDREN[command](*arguments)
    except Exception as error:  # the parent writes it down
        return {"fault": f"{command.lstrip('_')}: {short(error)}"}


if __name__ == "__main__":
    print("\n" + json.dumps(child(*sys.argv[1:])))
