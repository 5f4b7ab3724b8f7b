"""Unknown is never counted as nothing: totals say that they are partial, in every form that they are written in."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnxsparse import Model, layers
from onnxsparse.cli.netron_view import for_viewing
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.report.html import html
from onnxsparse.cost.sparsity_sweep import curves
from tests.commands import Run
from tests.graphs import BOOL, INT64, chain, model, node, proto, single, value

ACME = {"acme": 1}
KNOWN_MACS = 8 * 3 * 9 * 36
"""Of the first convolution: 8 × 3 weights of 3×3, 6×6 positions."""


def hidden_sizes() -> onnx.ModelProto:
    """conv a (216 weights, known), an unknown op, conv c (1152 weights), whose sizes the unknown op hides."""
    nodes = [node("Conv", "x v", "a"), node("Mystery", "a", "b", domain="acme"), node("Conv", "b w", "y", name="c")]
    built = proto(nodes, {"x": "1x3x8x8"}, ["y"], {"v": "8x3x3x3", "w": "16x8x3x3"}, domains=ACME)
    built.graph.output[0].CopyFrom(value("y", "1x16xHxW"))
    return built


def custom_nms() -> onnx.ModelProto:
    """conv a, then a custom op of an unknown size, unnamed."""
    nodes = [node("Conv", "x v", "a"), node("Nms", "a", "y", name="", domain="acme")]
    built = proto(nodes, {"x": "1x3x8x8"}, ["y"], {"v": "8x3x3x3"}, domains=ACME)
    built.graph.output[0].CopyFrom(value("y", "Nx6"))
    return built


def open_sizes() -> onnx.ModelProto:
    """An open model of which one layer is known: the second input has its size."""
    nodes = [node("Conv", "x v", "p"), node("Conv", "z v", "q")]
    return proto(nodes, {"x": "1x3xHxW", "z": "1x3x8x8"}, ["p", "q"], {"v": "8x3x3x3"})


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    onnx.save(hidden_sizes(), tmp_path / "hidden.onnx")
    return tmp_path / "hidden.onnx"


@pytest.fixture
def nms(tmp_path: Path) -> Path:
    onnx.save(custom_nms(), tmp_path / "nms.onnx")
    return tmp_path / "nms.onnx"


class TestInspect:
    def test_text(self, run: Run, hidden: Path) -> None:
        assert run("inspect", hidden) == 0
        assert "≥ 7.78 k" in run.out  # 7776
        assert "0.00 % of what is known" in run.out

    @pytest.mark.parametrize("build", [hidden_sizes, custom_nms, open_sizes])
    def test_json(self, run: Run, tmp_path: Path, build: Callable[[], onnx.ModelProto]) -> None:
        onnx.save(build(), tmp_path / "m.onnx")
        assert run("inspect", tmp_path / "m.onnx", "--json", "-") == 0
        found = json.loads(run.out)
        assert (found["complete"], found["totals"]["complete"], found["totals"]["macs"]) == (False, False, KNOWN_MACS)

    def test_a_complete_model(self, run: Run, source: Path) -> None:
        assert run("inspect", source, "--json", "-") == 0
        assert json.loads(run.out)["complete"] is True

    @pytest.mark.parametrize(("domain", "macs"), [("acme", None), ("", 0)])
    def test_a_model_without_layers_has_no_macs_only_if_it_has_no_unknown_op(self, domain: str, macs: int | None) -> None:
        built = model([node("Relu", "x", "y", domain=domain)], {"x": "4x8"}, ["y"], {}, domains=ACME)
        totals = layers(built).totals
        assert (totals.macs, totals.nonzero_macs, totals.complete) == (macs, macs, macs == 0)

    @pytest.mark.parametrize("name", ["Mystery", "MatMul"])
    def test_macs_are_zero_where_all_that_is_unknown_is_free(self, name: str) -> None:
        nodes = [node(name, "x w", "y", domain="acme" if name == "Mystery" else "")]
        built = Model.from_proto(proto(nodes, {"x": "NxM"}, ["y"], {"w": "8"}, domains=ACME))
        assert layers(built).totals.macs is None
        freed = deploy(built, assume_free=["*"]).load.layers.totals
        assert (freed.macs, freed.nonzero_macs, freed.complete) == (0, 0, True)

    def test_an_unknown_op_that_reads_a_matrix_may_hold_weights(self) -> None:
        """A scalar or a vector beside it may not."""
        nodes = [node("MatMul", "x v", "a"), node("Mystery", "a w", "y", domain="acme")]
        for shape, complete in (("8x8", False), ("8", True)):
            totals = layers(model(nodes, {"x": "4x8"}, ["y"], {"v": "8x8", "w": shape}, domains=ACME)).totals
            assert (totals.macs_complete, totals.weights_complete) == (False, complete)

    def test_a_branch_of_unknown_macs_may_be_the_larger(self) -> None:
        known = helper.make_graph([node("MatMul", "x w", "t")], "then", [], [value("t", "4x8")])
        hidden = [node("Mystery", "x", "h", domain="acme"), node("MatMul", "h w", "e")]
        other = helper.make_graph(hidden, "else", [], [value("e", None)])
        nodes = [node("If", "c", "y", then_branch=known, else_branch=other)]
        built = model(nodes, {"x": "4x8", "c": ("", BOOL)}, ["y"], {"w": "8x8"}, domains=ACME)
        found = layers(built)
        assert found.notes == ("y: only its branch of unknown MACs, else_branch, is counted",)
        assert not found.totals.complete
        assert [row.item.node for row in deploy(built).unknown] == ["y"]

    def test_an_unknown_op_in_a_body_leaves_the_node_around_it_without_a_cost(self) -> None:
        inner = [node("MatMul", "x w", "h"), node("Mystery", "h", "t", domain="acme")]
        then = helper.make_graph(inner, "then", [], [value("t", "4x8")])
        other = helper.make_graph([node("Relu", "x", "e")], "else", [], [value("e", "4x8")])
        nodes = [node("If", "c", "y", then_branch=then, else_branch=other)]
        built = model(nodes, {"x": "4x8", "c": ("", BOOL)}, ["y"], {"w": "8x8"}, domains=ACME)
        assert not deploy(built).costs_complete
        freed = deploy(built, assume_free=["op:Mystery"])
        assert freed.complete
        assert [row.item.macs for row in freed.rows] == [4 * 8 * 8]  # the product beside it still counts


class TestReport:
    def test_text_begins_with_what_is_missing(self, run: Run, hidden: Path) -> None:
        assert run("report", hidden, "--fps", 30, "--curve") == 0
        assert (
            "incomplete: the cost of 2 of 3 layers is unknown (1 × unknown op, 1 × the shape of 'b' is unknown)"
            in run.out.splitlines()[1]
        )
        row = next(line for line in run.out.splitlines() if "≤" in line and "≥" in line and "fps" not in line)
        assert row.split("≤")[0].strip().startswith("≥ 0.0")
        for text in ("MB/s of DRAM traffic, busy ≥", "none of what is known", "to ≥", "time by bound, of the layers whose cost"):
            assert text in run.out, text

    def test_files(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        """Markdown, HTML, CSV and JSON of one report."""
        paths = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "markdown", "html")}
        options = [text for name, path in paths.items() for text in (f"--{name}", path)]
        assert run("report", hidden, *options, "--fps", 30, "--curve-csv", tmp_path / "c.csv") == 0
        found = json.loads(paths["json"].read_text())
        assert (found["complete"], found["totals"]["complete"], found["operation"]["complete"]) == (False, False, False)
        assert {curve["complete"] for curve in found["curve"]} == {False}
        assert [(u["node"], u["reason"]) for u in found["unknown"]] == [
            ("b", "unknown op"),
            ("c", "the shape of 'b' is unknown"),
        ]
        rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
        assert [(r["latency_ms"] != "", r["reason"]) for r in rows] == [
            (True, ""),
            (False, "unknown op"),
            (False, "the shape of 'b' is unknown"),
        ]
        assert {r["complete"] for r in csv.DictReader((tmp_path / "c.csv").read_text().splitlines())} == {"False"}
        markdown = paths["markdown"].read_text()
        assert "- incomplete: the cost of 2 of 3 layers" in markdown
        for row in ("| latency_ms | ≥ ", "| fps | ≤ ", "| macs | ≥ 7.78 k |", "| sparsity_op | 0.00 % of what is known |"):
            assert row in markdown, row
        page = paths["html"].read_text()
        assert 'id="total-latency_ms">≥ ' in page
        assert 'id="total-fps">≤ ' in page
        assert "<li>incomplete: the cost of 2 of 3 layers" in page

    def test_two_bounds_have_no_difference(self, run: Run, hidden: Path, nms: Path) -> None:
        assert run("report", nms, hidden, "--json", "-") == 0
        found = json.loads(run.out)
        assert found["complete"] is False
        known = {name for name, value in found["differences"][0].items() if value is not None}
        assert known == {"model", "sparsity"}  # the share of zero weights, all of which are known
        assert run("report", nms, hidden) == 0
        assert "hidden.onnx: incomplete" in run.out
        assert "(+" not in run.out.replace("0.00 % (+0.00 %)", "")  # sparsity, of weights, is known

    def test_a_figure_says_that_layers_are_missing(self) -> None:
        found = deploy(Model.from_proto(hidden_sizes()))
        assert "Latency per layer, of the layers whose cost is known" in html(found, "m", curves(found.load, found.backend))

    def test_few_supported_ops_leave_bounds(self, run: Run, source: Path, tmp_path: Path) -> None:
        """The three convolutions, with what is fused, are not costed where the part has Relu alone."""
        part = 'format = 1\nkind = "roofline"\nname = "p"\nsupported_ops = ["Relu"]\n[numbers]\npeak_gmac_per_s = 1\n'
        (tmp_path / "p.toml").write_text(part + "bandwidth_gb_per_s = 1\n")
        assert run("report", source, "--hardware", tmp_path / "p.toml", "--fail-if", "fps<1") == 1
        assert "the cost of 3 of 3 layers is unknown (the target's supported ops have no Conv" in run.err

    def test_a_measured_layer_of_unknown_size_has_its_time_alone(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("MatMul", "x w", "a"), node("NonZero", "a", "y")]
        onnx.save(proto(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}), tmp_path / "m.onnx")
        assert run("report", tmp_path / "m.onnx", "--backend", "onnxruntime-cpu", "--json", "-") == 0
        found = json.loads(run.out)
        assert [(row["latency_ms"] > 0, row["output_bytes"]) for row in found["layers"]] == [(True, 32), (True, None)]
        assert (found["complete"], found["incomplete"]) == (False, ["the sizes of some activations are unknown"])
        limit = ("--backend", "onnxruntime-cpu", "--fail-if", "dram_mb>1")
        assert "dram_mb is ≥" in run.fails(1, "report", tmp_path / "m.onnx", *limit)
        assert run("report", tmp_path / "m.onnx", "--backend", "onnxruntime-cpu", "--fail-if", "latency_ms>1e9") == 0


class TestLimits:
    @pytest.mark.parametrize(
        "limit", ["fps<30", "latency_ms>35", "latency_ms>0.00001", "mem_p_mb>100", "sparsity_op<0", "macs>1e12"]
    )
    def test_one_on_an_incomplete_total_fails_with_the_reason_first(self, run: Run, hidden: Path, limit: str) -> None:
        message = run.fails(1, "report", hidden, "--fail-if", limit)
        assert message.startswith("onnxsparse: report: hidden.onnx: the cost of 2 of 3 layers is unknown")
        assert f"(--fail-if '{limit}')" in message

    def test_a_total_that_is_known_keeps_its_limit(self, run: Run, hidden: Path) -> None:
        assert run("report", hidden, "--fail-if", "sparsity>0.5") == 0

    def test_strict_refuses_and_writes_nothing(self, run: Run, tmp_path: Path) -> None:
        onnx.save(open_sizes(), tmp_path / "open.onnx")
        message = run.fails(2, "report", tmp_path / "open.onnx", "--strict", "--json", tmp_path / "r.json")
        assert "the cost of 1 of 2 layers is unknown (open sizes)" in message
        assert "--input-shape (x: 1x3x?x?)" in message
        assert not (tmp_path / "r.json").exists()
        assert run("report", tmp_path / "open.onnx", "--strict", "--dim", "H=8", "--dim", "W=8") == 0

    def test_in_a_recipe(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        for options, code in (("fail_if: ['fps<1']", 1), ("strict: true, json: r.json", 2)):
            (tmp_path / "r.yaml").write_text(f"passes:\n  - report: {{{options}}}\n")
            assert "the cost of 2 of 3 layers" in run.fails(code, "run", tmp_path / "r.yaml", hidden, tmp_path / "o.onnx")


class TestAssumeFree:
    def test_a_node_counts_as_0_and_is_listed(self, run: Run, nms: Path) -> None:
        assert run("report", nms, "--assume-free", "op:Nms", "--strict", "--fail-if", "fps<30", "--json", "-") == 0
        found = json.loads(run.out)
        assert (found["complete"], found["assumed_free"]) == (True, ["#1 y"])
        free = found["layers"][1]
        assert (free["node"], free["latency_ms"], free["bound"]) == ("#1 y", 0, "assumed free")
        assert found["totals"]["latency_ms"] == found["layers"][0]["latency_ms"]
        assert found["totals"]["mem_a_mb"] * 1e6 == 3 * 64 + 8 * 36
        assert run("report", nms, "--assume-free", "op:Nms") == 0
        assert "assumed free, counted as 0: #1 y" in run.out

    def test_on_a_target_that_charges_for_every_layer(self, tmp_path: Path) -> None:
        """Two layers of a millisecond, one of which is assumed free: also in the variants and the curve."""
        part = 'format = 1\nkind = "roofline"\nname = "p"\n[numbers]\npeak_gmac_per_s = 1e9\n'
        (tmp_path / "p.toml").write_text(part + "bandwidth_gb_per_s = 1e9\noverhead_us = 1000\n")
        found = deploy(Model.from_proto(custom_nms()), tmp_path / "p.toml", assume_free=["op:Nms"])
        assert found.latency_ms == pytest.approx(1)
        assert found.variants == {"p": pytest.approx(1)}
        assert curves(found.load, found.backend)[0].latency_ms[0] == pytest.approx(1)

    def test_a_pattern_that_matches_nothing(self, run: Run, nms: Path) -> None:
        assert "--assume-free 'op:Gone' matches no layer" in run.fails(2, "report", nms, "--assume-free", "op:Gone")


class TestAnnotations:
    def annotated(self, run: Run, source: Path, target: Path, *options: str) -> onnx.ModelProto:
        assert run("annotate", source, target, *options) == 0
        return onnx.load(target)

    def test_totals_and_shares(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        done = self.annotated(run, hidden, tmp_path / "o.onnx", "--backend", "cv22")
        totals = json.loads(next(p.value for p in done.metadata_props if p.key == "onnxsparse.totals"))
        assert totals["complete"] is False
        summaries = [p.value for n in done.graph.node for p in n.metadata_props if p.key == "summary"]
        assert summaries[0].endswith("ms · 100 % of what is known · overhead")
        assert summaries[1:] == ["cost unknown: unknown op", "cost unknown: the shape of 'b' is unknown"]
        assert run("strip", tmp_path / "o.onnx", tmp_path / "s.onnx") == 0
        assert not [p for n in onnx.load(tmp_path / "s.onnx").graph.node for p in n.metadata_props]

    def test_strict_and_assume_free(self, run: Run, nms: Path, tmp_path: Path) -> None:
        for backend in ((), ("--backend", "cv22")):
            message = run.fails(2, "annotate", nms, tmp_path / "o.onnx", "--strict", *backend)
            assert "the MACs of 1 node are unknown (#1 y)" in message
            done = self.annotated(run, nms, tmp_path / "o.onnx", "--strict", "--assume-free", "op:Nms", *backend)
            totals = json.loads(next(p.value for p in done.metadata_props if p.key == "onnxsparse.totals"))
            assert (totals["complete"], totals["assumed_free"]) == (True, ["#1 y"])

    def test_the_attachment(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        assert run("annotate", hidden, "--side-file", tmp_path / "n.json") == 0
        shown = {m["name"]: m["value"] for m in json.loads((tmp_path / "n.json").read_text())["metrics"] if m["kind"] == "model"}
        assert (shown["macs"], shown["sparsity_op"]) == ("≥ 7.78 k", "0.00 % of what is known")

    def test_view(self) -> None:
        shown = for_viewing(Model.from_proto(hidden_sizes()), heat=True, target="cv22")
        assert shown.proto.graph.node[0].name == "#1 overhead 100.0 % of what is known a"


def test_a_complete_report_has_no_marks(run: Run, source: Path) -> None:
    assert run("report", source, "--fps", 30, "--curve") == 0
    assert not {"≥", "≤"} & set(run.out)
    assert "incomplete" not in run.out
    assert deploy(Model.from_proto(chain(3, 8, 4))).complete


IDS = ("2x5", INT64)


@pytest.mark.parametrize(
    "built",
    [
        single(
            "RotaryEmbedding",
            "x i c s",
            {"x": "2x5x32", "i": IDS},
            {"c": "20x4", "s": "20x4"},
            domain="com.microsoft",
            num_heads=4,
        ),
        single(
            "EmbedLayerNormalization",
            "i a w p t g b",
            {"i": IDS, "a": IDS},
            {"w": "90x8", "p": "20x8", "t": "2x8", "g": "8", "b": "8"},
            domain="com.microsoft",
            outputs="y m",
        ),
    ],
    ids=["rotary", "embed"],
)
def test_embeddings_are_known_and_have_no_macs(built: Model) -> None:
    """Tables that are looked up are no weights, and what is multiplied element by element is no MAC."""
    found = layers(built)
    assert (list(found), found.unknown, found.totals.macs) == ([], (), 0)
