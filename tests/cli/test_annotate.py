"""Annotations: exact, in order, replaceable, removable, and in nobody's way."""

import io
import json
from pathlib import Path

import onnx
import pytest

from onnxsparse import Annotate, Model, Prune, Strip, layers
from onnxsparse.analysis.layer import NODE_KEYS
from onnxsparse.annotations import FINGERPRINT, LAYERS, TOTALS, is_stale
from onnxsparse.cost.estimate import deploy
from tests.bodies import if_model
from tests.graphs import chain, model, node


def annotated(built: Model, **options: object) -> Model:
    done = built.copy()
    Annotate(**options).run(done)  # type: ignore[arg-type]  # options come from the test
    return done


def props(holder: onnx.NodeProto | onnx.ModelProto) -> dict[str, str]:
    return {e.key: e.value for e in holder.metadata_props}


def pruned() -> Model:
    built = Model.from_proto(chain(3, 8, 16, 4))
    Prune(sparsity_op=0.7).run(built)
    return built


def test_values_are_exact_and_in_order() -> None:
    done = annotated(pruned())
    for layer, written in zip(layers(done), (n for n in done.proto.graph.node if n.op_type == "Conv"), strict=True):
        assert [e.key for e in written.metadata_props] == list(NODE_KEYS)
        found = props(written)
        assert int(found["macs"]) == layer.macs
        assert int(found["nonzero_macs"]) == layer.nonzero_macs
        assert int(found["params"]) == layer.elements
        assert float(found["sparsity"]) == layer.sparsity
        assert float(found["sparsity_op"]) == layer.weight_share


def test_contributions_sum_to_the_models_sparsity_op() -> None:
    done = annotated(pruned())
    total = sum(float(props(n)["sparsity_op"]) for n in done.proto.graph.node if n.op_type == "Conv")
    assert total == pytest.approx(layers(done).totals.sparsity_op, abs=1e-12)
    assert json.loads(props(done.proto)[TOTALS])["sparsity_op"] == layers(done).totals.sparsity_op


def test_an_op_without_weights_has_zero_macs_and_an_unknown_one_none() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Mystery", "r", "y", domain="acme")]
    done = annotated(model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1}))
    assert [props(n).get("macs") for n in done.proto.graph.node] == ["256", "0", None]


def test_a_table_stands_in_the_models_metadata() -> None:
    done = annotated(pruned())
    table = json.loads(props(done.proto)[LAYERS])
    assert table["columns"] == ["node", *NODE_KEYS]
    assert [row[0] for row in table["rows"]] == ["conv0", "conv1", "conv2"]


def test_annotating_again_replaces() -> None:
    once = annotated(pruned())
    assert annotated(once).to_bytes() == once.to_bytes()


def test_strip_restores_every_byte() -> None:
    built = pruned()
    built.proto.metadata_props.add(key="author", value="someone")
    built.proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name", value="net.conv0")
    built.proto.graph.node[2].metadata_props.add(key="macs", value="somebody else's")
    done = annotated(built)
    assert props(done.proto.graph.node[0])["pkg.torch.onnx.name"] == "net.conv0"
    assert props(done.proto)["author"] == "someone"
    Strip().run(done)
    assert done.to_bytes() == built.to_bytes()


def test_strip_leaves_a_model_alone_that_was_never_annotated() -> None:
    built = pruned()
    built.proto.graph.node[0].metadata_props.add(key="macs", value="theirs")
    before = built.to_bytes()
    report = Strip().run(built)
    assert built.to_bytes() == before
    assert report.notes == ["the model had no annotations"]


def test_bodies_are_annotated_and_the_node_around_them_sums_up() -> None:
    done = annotated(if_model())
    outer = done.proto.graph.node[0]
    inner = [n for a in outer.attribute if a.name == "else_branch" for n in a.g.node]
    assert [props(n)["macs"] for n in inner] == ["512", "512"]
    assert props(outer)["macs"] == "1024"


def test_the_ir_version_stays_unless_asked() -> None:
    assert annotated(pruned()).proto.ir_version == 8
    assert annotated(pruned(), ir_version=10).proto.ir_version == 10


def test_the_fingerprint_tells_a_changed_graph() -> None:
    done = annotated(pruned())
    assert FINGERPRINT in props(done.proto)
    assert not is_stale(done.proto)
    done.proto.graph.node[1].op_type = "Sigmoid"
    assert is_stale(done.proto)


def test_predicted_costs_come_first_and_go_with_the_rest(tmp_path: Path) -> None:
    built = pruned()
    done = annotated(built, backend="cv22")
    conv1 = done.proto.graph.node[2]
    assert [e.key for e in conv1.metadata_props] == ["summary", "latency_ms", "bound", "advice", *NODE_KEYS]
    assert props(conv1)["summary"] == "#2 · 0.02 ms · 33 % · overhead"
    total = sum(float(props(n).get("latency_ms", 0)) for n in done.proto.graph.node)
    assert total == pytest.approx(deploy(built).latency_ms, abs=1e-12)
    assert annotated(done, backend="cv22").to_bytes() == done.to_bytes()
    Strip().run(done)
    assert done.to_bytes() == built.to_bytes()
    report = Annotate(side_file=tmp_path / "a.json", backend="cv22").run(built)
    out = io.BytesIO()
    report.artifacts[tmp_path / "a.json"](out)
    names = [m["name"] for m in json.loads(out.getvalue())["metrics"] if m["target"] == "conv1"]
    assert names == ["summary", "latency_ms", "bound", "advice", *NODE_KEYS]


def test_the_attachment_has_every_node_that_costs_time(tmp_path: Path) -> None:
    built = model(
        [node("Conv", "x w", "a", name="conv"), node("MaxPool", "a", "y", name="pool", kernel_shape=[2, 2])],
        {"x": "1x3x8x8"},
        ["y"],
        {"w": "8x3x1x1"},
    )
    out = io.BytesIO()
    Annotate(side_file=tmp_path / "a.json", backend="cv22").run(built).artifacts[tmp_path / "a.json"](out)
    pool = {m["name"]: m["value"] for m in json.loads(out.getvalue())["metrics"] if m["target"] == "pool"}
    assert pool == {"summary": "#1 · 0.02 ms · 50 % · overhead", "latency_ms": "0.020", "bound": "overhead"}


def test_a_model_that_costs_no_time() -> None:
    """Small activations stay on the chip of the roofline target, which counts no overhead."""
    done = annotated(model([node("Relu", "x", "y")], {"x": "1x3x8x8"}, ["y"], {}), backend="roofline")
    assert props(done.proto.graph.node[0])["summary"] == "#1 · 0.00 ms · 0 % · compute"


def test_annotated_models_pass_the_checker() -> None:
    onnx.checker.check_model(annotated(pruned()).to_bytes(), full_check=True)


def test_a_side_file_leaves_the_model_untouched(tmp_path: Path) -> None:
    built = pruned()
    before = built.to_bytes()
    report = Annotate(side_file=tmp_path / "a.json").run(built)
    assert built.to_bytes() == before
    out = io.BytesIO()
    report.artifacts[tmp_path / "a.json"](out)
    written = json.loads(out.getvalue())
    assert written["signature"] == "netron:attachment"
    conv1 = {m["name"]: m["value"] for m in written["metrics"] if m["target"] == "conv1"}
    assert list(conv1) == list(NODE_KEYS)
    assert conv1["params"] == "1.15 k"
    assert conv1["sparsity"].endswith(" %")


def test_a_side_file_says_which_layers_it_cannot_reach(tmp_path: Path) -> None:
    built = pruned()
    built.proto.graph.node[0].name = ""
    built.proto.graph.node[2].name = built.proto.graph.node[4].name
    report = Annotate(side_file=tmp_path / "a.json").run(built)
    assert "3 layers have no unique name" in report.notes[0]
