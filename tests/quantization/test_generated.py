"""What holds of every quantized model, over generated graphs of what a network is made of."""

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsparse.analysis.checker import first_fault
from onnxsparse.ir.model import Model
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.session import Execution, Feeds, runner
from tests.graphs import NAMINGS, Array, model, node, weight

SIZE = 4
INPUT = f"1x4x{SIZE}x{SIZE}"

ACTIVATIONS = ("Relu", "Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "Softplus", "Elu")
MOVES = ("Identity", "MaxPool", "Transpose", "Reshape", "Resize", "Slice", "Pad", "Split")
STEPS = (
    "conv",
    "conv",
    "deconv",
    "depthwise",
    "shared",
    "norm",
    "silu",
    "clip",
    "act",
    "add",
    "mul",
    "scale",
    "concat",
    "softmax",
)


@dataclass
class Net:
    """A network that grows; `values`: name → channels, all of them of the input's height and width."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, str | Array] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=lambda: {"x": 4})

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def add(self, op: str, inputs: str, channels: int, **attributes: Any) -> str:
        made = self.name(op.lower())
        self.nodes.append(node(op, inputs, made, **attributes))
        self.values[made] = channels
        return made

    def constant(self, kind: str, array: Array) -> str:
        made = f"{kind}{len(self.weights)}"
        self.weights[made] = array
        return made

    def kernel(self, draw: st.DrawFn, *shape: int) -> str:
        """Some of its elements zero, and at times a whole output."""
        seed = draw(st.integers(0, 99))
        made = weight("x".join(map(str, shape)), seed) / np.float32(np.sqrt(np.prod(shape[1:])))
        made[np.random.default_rng(seed).random(made.shape) < 0.3] = 0
        made[0] *= draw(st.sampled_from([0, 1, 1, 1e-4]))
        return self.constant("w", made)


def grow(draw: st.DrawFn, net: Net) -> None:
    """One more step, from a value that is there."""
    a = draw(st.sampled_from(sorted(net.values)[-4:]))
    step = draw(st.sampled_from((*STEPS, *MOVES)))
    if step in MOVES:
        move(net, step, a)
    elif step in ("conv", "deconv", "depthwise", "shared"):
        convolve(draw, net, step, a)
    elif step in ("add", "mul", "scale", "concat"):
        combine(draw, net, step, a)
    else:
        elementwise(draw, net, step, a)


def elementwise(draw: st.DrawFn, net: Net, step: str, a: str) -> None:
    c = net.values[a]
    if step == "norm":
        numbers = [net.constant("n", np.abs(weight(str(c), seed)) + np.float32(0.5)) for seed in range(4)]
        net.add("BatchNormalization", " ".join((a, *numbers)), c)
    elif step == "silu":
        net.add("Mul", f"{a} {net.add('Sigmoid', a, c)}", c)
    elif step == "clip":
        low, high = (net.constant("k", np.array(bound, np.float32)) for bound in (0, 6))
        net.add("Clip", f"{a} {low} {high}", c)
    else:
        net.add("Softmax" if step == "softmax" else draw(st.sampled_from(ACTIVATIONS)), a, c)


def combine(draw: st.DrawFn, net: Net, step: str, a: str) -> None:
    c = net.values[a]
    if step == "scale":
        net.add(draw(st.sampled_from(["Mul", "Add"])), f"{a} {net.constant('k', weight(f'{c}x1x1', c))}", c)
    elif step == "concat":
        b = draw(st.sampled_from(sorted(net.values)))
        net.add("Concat", f"{a} {b}", c + net.values[b], axis=1)
    else:
        b = draw(st.sampled_from([n for n, size in sorted(net.values.items()) if size == c]))
        net.add(step.title(), f"{a} {b}", c)


def convolve(draw: st.DrawFn, net: Net, step: str, a: str) -> None:
    c = net.values[a]
    same = [n for n in net.nodes if step == "shared" and n.op_type == "Conv" and net.values[n.input[0]] == c]
    if same:
        net.add("Conv", " ".join((a, *same[0].input[1:])), net.values[same[0].output[0]], **attributes_of(same[0]))
        return
    k, out = draw(st.sampled_from([1, 3])), c if step == "depthwise" else draw(st.sampled_from([1, 2, 4, 6]))
    shape = (c, out, k, k) if step == "deconv" else (out, 1 if step == "depthwise" else c, k, k)
    inputs = f"{a} {net.kernel(draw, *shape)}"
    if draw(st.booleans()):
        inputs += f" {net.constant('b', weight(str(out), c) * np.float32(draw(st.sampled_from([0, 1, 100]))))}"
    op = "ConvTranspose" if step == "deconv" else "Conv"
    net.add(op, inputs, out, pads=[k // 2] * 4, group=c if step == "depthwise" else 1)


def attributes_of(given: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in given.attribute}


def move(net: Net, step: str, a: str) -> None:
    c = net.values[a]
    numbers = {
        "Reshape": [np.array([1, c, SIZE, SIZE])],
        "Slice": [np.array([0]), np.array([max(1, c // 2)]), np.array([1])],
        "Pad": [np.array([0, 1, 0, 0, 0, 0, 0, 0])],
    }
    inputs = " ".join((a, *(net.constant("i", n) for n in numbers.get(step, []))))
    if step == "Resize":
        inputs = f"{a} {net.constant('r', np.zeros(0, np.float32))} {net.constant('f', np.ones(4, np.float32))}"
    attributes = {"MaxPool": {"kernel_shape": [3, 3], "pads": [1] * 4}, "Transpose": {"perm": [0, 1, 3, 2]}}.get(step, {})
    if step != "Split":
        net.add(step, inputs, {"Slice": max(1, c // 2), "Pad": c + 1}.get(step, c), **attributes)
    elif c % 2 == 0:
        first = net.name("split")
        net.nodes.append(node("Split", a, f"{first} {first}b", axis=1))
        net.values |= {first: c // 2, f"{first}b": c // 2}


@st.composite
def networks(draw: st.DrawFn) -> Model:
    net = Net()
    for _ in range(draw(st.integers(2, 12))):
        grow(draw, net)
    made = [name for name in net.values if name != "x"]
    if not made:
        made = [net.add("Relu", "x", 4)]
    last = made[-1]
    if draw(st.booleans()):
        flat = net.add("Flatten", net.add("GlobalAveragePool", last, 0), 0)
        last = net.add(
            "Gemm", f"{flat} {net.kernel(draw, 5, net.values[made[-1]])} {net.constant('b', weight('5'))}", 0, transB=1
        )
    others = draw(st.lists(st.sampled_from(made), max_size=2, unique=True))
    outputs = list(dict.fromkeys([last, *others]))
    version = draw(st.sampled_from([11, 13, 17]))
    return model(net.nodes, {"x": INPUT}, outputs, net.weights, opset=version, naming=draw(NAMINGS))


def samples() -> list[Feeds]:
    return [{"x": weight(INPUT, seed)} for seed in range(2)]


def interface(built: Model) -> list[bytes]:
    return [v.SerializeToString(deterministic=True) for v in (*built.proto.graph.input, *built.proto.graph.output)]


def assert_zeros_stay(before: Model, after: Model) -> None:
    integers = {n.input[0] for n in after.proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in after.weights}
    for name in integers & set(before.weights):
        if after.weights[name].dtype == np.int32:
            continue  # a bias, which is corrected
        assert not np.any(after.weights[name][before.weights[name] == 0]), name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(["cv22", "onnxruntime-x86"]), st.sampled_from(["minmax", "mse"]))
def test_a_quantized_model_is_sound_and_what_was_true_of_the_float_one_still_is(built: Model, target: str, method: str) -> None:
    done = built.copy()
    Quantize(target=target, method=method).run(done, samples())
    assert first_fault(done) is None
    onnx.checker.check_model(onnx.load_from_string(done.to_bytes()), full_check=True)
    assert interface(done) == interface(built)
    found = runner(done).run(samples()[0])
    assert all(np.isfinite(np.asarray(value, np.float32)).all() for value in found.values())
    assert_zeros_stay(built, done)
    again = done.copy()
    report = Quantize(target=target, method=method).run(again, samples())
    assert again.to_bytes() == done.to_bytes(), report.notes


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory: pytest.TempPathFactory) -> str:
    """onnxruntime's target, if it had kernels of 16 bits."""
    text = files("onnxsparse.targets").joinpath("onnxruntime-x86.toml").read_text()
    path = tmp_path_factory.mktemp("targets") / "wide.toml"
    path.write_text(text.replace("bits = [4, 7, 8]\n", "bits = [8, 16]\n"))
    return str(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.booleans())
def test_with_sixteen_bits_it_computes_what_it_did(asymmetric: str, built: Model, symmetric: bool) -> None:
    """So much precision leaves no room for a quantizer in the wrong place, a wrong axis or a wrong scale."""
    target = "cv22" if symmetric else asymmetric
    done = built.copy()
    Quantize(target=target, method="minmax", activation_bits=16, weight_bits=16).run(done, samples())
    feed = samples()[0]
    expected, found = (
        runner(built, execution=Execution.NODE_BY_NODE).run(feed),
        runner(done, execution=Execution.NODE_BY_NODE).run(feed),
    )
    for name, whole in expected.items():
        off = np.abs(np.subtract(found[name], whole, dtype=np.float64))
        assert off.max() <= 2e-2 * max(np.abs(whole).max(), 1e-3), name
