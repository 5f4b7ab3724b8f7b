"""Loading and saving: nothing lost, nothing half written, weights found where they are."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.robustness.kill_save import run as run_kills
from onnxsparse import Model, ModelError, ParamError, load
from onnxsparse.ir import model as model_module
from onnxsparse.ir import weights as weights_module
from onnxsparse.ir.wire import BULK_BYTES, FLOAT_DATA, RAW_DATA, lift
from tests.commands import files
from tests.graphs import chain, node, proto, weight


def save_proto(built: onnx.ModelProto, path: Path, **options: object) -> Path:
    onnx.save(built, path, **options)  # type: ignore[arg-type]  # onnx.save's own keywords
    return path


def external(path: Path, built: onnx.ModelProto | None = None) -> Path:
    """A model whose bulk weights are in `path`.bin."""
    options = {"save_as_external_data": True, "location": f"{path.name}.bin", "size_threshold": 0}
    return save_proto(built or chain(3, 8, 16, 4), path, **options)


def light_models() -> list[Path]:
    return sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))


@pytest.mark.parametrize("path", light_models(), ids=lambda p: p.stem)
def test_saving_what_was_loaded_changes_nothing(path: Path, tmp_path: Path) -> None:
    load(path).save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx", load_external_data=False) == onnx.load(path, load_external_data=False)


ELEMENTS = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64, TensorProto.BFLOAT16]


@st.composite
def tensors(draw: st.DrawFn) -> TensorProto:
    """A tensor of any size around the bulk limit, raw or in typed fields, with or without a data_location."""
    data_type = draw(st.sampled_from(ELEMENTS))
    count = draw(st.integers(0, 3000))
    values = np.random.default_rng(count).integers(-100, 100, count).astype(helper.tensor_dtype_to_np_dtype(data_type))
    if draw(st.booleans()) and data_type not in (TensorProto.BFLOAT16, TensorProto.FLOAT16):
        made = helper.make_tensor("t", data_type, [count], values)
    else:
        made = numpy_helper.from_array(values, "t")
    if draw(st.booleans()):
        made.data_location = TensorProto.DEFAULT
    if draw(st.booleans()):
        made.doc_string = "about"
    return made


@settings(max_examples=150, deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=4), st.booleans())
def test_any_tensor_comes_back_as_it_was(found: list[TensorProto], in_nodes: bool) -> None:
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("t0", found[0].data_type, None)])
    for i, tensor in enumerate(found):
        tensor.name = f"t{i}"
        if in_nodes:
            graph.node.append(helper.make_node("Constant", [], [f"t{i}"], value=tensor))
        else:
            graph.initializer.append(tensor)
    built = helper.make_model(graph)
    model = Model.from_proto(built)
    assert onnx.ModelProto.FromString(model.to_bytes()) == built
    for i, tensor in enumerate(found):
        assert np.array_equal(model.weights[f"t{i}"], numpy_helper.to_array(tensor), equal_nan=False)


def test_bulk_weights_are_views_of_the_file(tmp_path: Path) -> None:
    model = load(save_proto(chain(3, 8, 64, 4), tmp_path / "m.onnx"))
    array = model.weights["conv1.weight"]
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert model.proto.ByteSize() < 4000


@pytest.mark.parametrize("field", [RAW_DATA, FLOAT_DATA])
def test_the_scanner_lifts_raw_and_packed_floats(field: int) -> None:
    values = weight(str(BULK_BYTES))
    made = numpy_helper.from_array(values, "w")
    if field == FLOAT_DATA:
        made = helper.make_tensor("w", TensorProto.FLOAT, values.shape, values)
    built = proto([node("Identity", "w", "y")], {}, ["y"], {"w": values})
    built.graph.initializer[0].CopyFrom(made)
    skeleton, spans = lift(memoryview(built.SerializeToString()))
    assert [(span.field, span.length) for span in spans] == [(field, values.nbytes)]
    assert len(skeleton) < 500


def test_assigned_values_shapes_and_types_are_saved(tmp_path: Path) -> None:
    model = load(save_proto(chain(3, 8, 16, 4), tmp_path / "m.onnx"))
    model.weights["conv1.weight"] = np.zeros((16, 8, 3, 3), np.float32)
    model.weights["conv1.bias"] = np.ones(16, np.float16)
    model.save(tmp_path / "out.onnx")
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert not found["conv1.weight"].any()
    assert found["conv1.bias"].dtype == np.float16
    assert np.array_equal(found["conv0.weight"], model.weights["conv0.weight"])


def test_large_assigned_weights_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SPILL_BYTES", 5000)
    model = load(save_proto(chain(3, 8, 64, 4), tmp_path / "m.onnx"))
    wanted = {name: weight("x".join(map(str, model.weights.shape(name))), 7) for name in model.weights}
    for name, array in wanted.items():
        model.weights[name] = array
    payload = model.weights.payload(model.weights.proto("conv1.weight"))
    assert payload is not None
    assert payload.data is None
    model.save(tmp_path / "out.onnx")
    assert all(np.array_equal(load(tmp_path / "out.onnx").weights[name], array) for name, array in wanted.items())


def test_elements_narrower_than_a_byte_are_assigned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SPILL_BYTES", 0)
    model = Model.from_proto(proto([node("Identity", "w", "y")], {}, ["y"], {"w": np.zeros((64, 64), ml_dtypes.int4)}, opset=21))
    wanted = (np.arange(64 * 64) % 7).astype(ml_dtypes.int4)
    model.weights.assign_parts("w", [wanted[:1000], wanted[1000:]])
    assert np.array_equal(model.weights["w"], wanted.reshape(64, 64))


def test_the_original_is_untouched_by_changes_to_a_copy(tmp_path: Path) -> None:
    model = load(save_proto(chain(3, 8, 16, 4), tmp_path / "m.onnx"))
    twin = model.copy()
    twin.weights["conv1.weight"] = np.zeros((16, 8, 3, 3), np.float32)
    assert model.weights["conv1.weight"].any()


class TestExternalData:
    def test_stays_external_under_the_targets_name(self, tmp_path: Path) -> None:
        source = external(tmp_path / "in.onnx")
        load(source).save(tmp_path / "out.onnx")
        assert files(tmp_path) == ["in.onnx", "in.onnx.bin", "out.onnx", "out.onnx.data"]
        assert onnx.load(tmp_path / "out.onnx") == onnx.load(source)

    def test_saving_twice_replaces_and_never_appends(self, tmp_path: Path) -> None:
        model = load(external(tmp_path / "in.onnx"))
        model.save(tmp_path / "out.onnx")
        first = sum(p.stat().st_size for p in tmp_path.glob("out*"))
        for _ in range(3):
            model.save(tmp_path / "out.onnx")
        made = list(tmp_path.glob("out*"))
        assert len(made) == 2
        assert sum(p.stat().st_size for p in made) <= first + 100
        assert onnx.load(tmp_path / "out.onnx") == onnx.load(tmp_path / "in.onnx")

    def test_onto_itself(self, tmp_path: Path) -> None:
        source = external(tmp_path / "in.onnx")
        before = onnx.load(source)
        model = load(source)
        model.weights["conv0.bias"] = np.full(8, 3, np.float32)
        model.save(source)
        after = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
        assert (after["conv0.bias"] == 3).all()
        assert np.array_equal(after["conv1.weight"], numpy_helper.to_array(before.graph.initializer[2]))

    def test_a_side_file_that_the_input_reads_is_kept(self, tmp_path: Path) -> None:
        """The input's weights are in the file that the target would name."""
        options = {"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 0}
        source = save_proto(chain(3, 8, 16, 4), tmp_path / "in.onnx", **options)
        before = onnx.load(source)
        load(source).save(tmp_path / "out.onnx")
        load(source).save(tmp_path / "out.onnx")
        assert onnx.load(source) == onnx.load(tmp_path / "out.onnx") == before

    def test_above_two_gigabytes_weights_go_outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = save_proto(chain(3, 8, 64, 4), tmp_path / "in.onnx")
        monkeypatch.setattr(model_module, "MAX_INLINE_BYTES", source.stat().st_size)
        model = load(source)
        model.proto.doc_string = "one more byte than fits" * 10
        model.save(tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").exists()
        assert np.array_equal(load(tmp_path / "out.onnx").weights["conv1.weight"], model.weights["conv1.weight"])

    @pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link", ""])
    def test_data_outside_the_models_folder_is_refused(self, tmp_path: Path, location: str) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret").write_bytes(b"0" * 10_000)
        (folder / "link").symlink_to(tmp_path / "secret")
        built = chain(3, 4)
        tensor = built.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        path = folder / "m.onnx"
        path.write_bytes(built.SerializeToString())
        with pytest.raises(ModelError, match="is not inside the model's folder"):
            load(path).weights["conv0.weight"]

    @pytest.mark.parametrize(("offset", "length"), [("0", "999999"), ("-8", "16"), ("99999", "432"), ("x", "432"), ("0", "-1")])
    def test_bytes_outside_the_file_are_refused(self, tmp_path: Path, offset: str, length: str) -> None:
        source = external(tmp_path / "in.onnx", chain(3, 4))
        built = onnx.load(source, load_external_data=False)
        entries = built.graph.initializer[0].external_data
        del entries[1:]
        entries.add(key="offset", value=offset)
        entries.add(key="length", value=length)
        source.write_bytes(built.SerializeToString())
        with pytest.raises(ModelError, match=r"tensor 'conv0.weight'"):
            load(source).weights["conv0.weight"]

    def test_missing_data_is_said(self, tmp_path: Path) -> None:
        source = external(tmp_path / "in.onnx")
        (tmp_path / "in.onnx.bin").unlink()
        with pytest.raises(ModelError, match=r"external data file .*in.onnx.bin: No such file"):
            load(source).weights["conv0.weight"]


class TestAtomic:
    def test_a_failed_write_leaves_the_target_and_nothing_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = load(external(tmp_path / "in.onnx"))
        target = tmp_path / "out.onnx"
        target.write_bytes(b"precious")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(ModelError, match=r"cannot write .*: No space left on device"):
            model.save(target)
        assert target.read_bytes() == b"precious"
        assert files(tmp_path) == ["in.onnx", "in.onnx.bin", "out.onnx"]

    def test_an_interrupt_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = load(save_proto(chain(3, 8, 4), tmp_path / "in.onnx"))
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.save(tmp_path / "out.onnx")
        assert files(tmp_path) == ["in.onnx"]

    def test_a_folder_is_no_target(self, tmp_path: Path) -> None:
        with pytest.raises(ParamError, match="is a folder"):
            Model.from_proto(chain(3, 4)).save(tmp_path)

    def test_a_missing_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ParamError, match="does not exist"):
            Model.from_proto(chain(3, 4)).save(tmp_path / "no" / "out.onnx")

    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "m.onnx")
        Model.from_proto(chain(3, 4)).save(tmp_path / "link.onnx")
        assert (tmp_path / "link.onnx").is_symlink()
        assert load(tmp_path / "real" / "m.onnx").weights["conv0.weight"].size


class TestBadFiles:
    @pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x00" * 100, b'{"a": 1}', b"\xff" * 64])
    def test_what_is_no_model_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"m.onnx: .*(not an ONNX model|truncated)"):
            load(tmp_path / "m.onnx")

    def test_a_cut_off_file_is_refused_wherever_the_cut_is(self, tmp_path: Path) -> None:
        whole = chain(3, 8, 16, 4).SerializeToString()
        for end in range(1, len(whole) - 1, 97):
            (tmp_path / "m.onnx").write_bytes(whole[:end])
            with pytest.raises(ModelError):
                load(tmp_path / "m.onnx")

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"cannot read .*none.onnx: No such file"):
            load(tmp_path / "none.onnx")
        with pytest.raises(ModelError, match="is a folder"):
            load(tmp_path)

    def test_more_than_two_gigabytes_inline(self, tmp_path: Path) -> None:
        with (tmp_path / "m.onnx").open("wb") as file:
            file.truncate(1 << 31)
        with pytest.raises(ModelError, match="larger than 2 GB"):
            load(tmp_path / "m.onnx")

    def test_a_tensor_with_the_wrong_number_of_bytes(self) -> None:
        built = chain(3, 64)
        built.graph.initializer[0].dims[0] = 63
        with pytest.raises(ModelError, match=r"'conv0.weight' of shape .* needs 6804 bytes and has 6912"):
            Model.from_proto(built).weights["conv0.weight"]

    def test_deep_nesting_is_refused(self) -> None:
        graph = helper.make_graph([], "g", [], [])
        for _ in range(24):
            holder = helper.make_node("If", ["c"], ["y"], then_branch=graph)
            holder.doc_string = "x" * BULK_BYTES
            graph = helper.make_graph([holder], "g", [], [])
        with pytest.raises(ModelError, match="nested more than 64 deep"):
            Model.from_proto(helper.make_model(graph))


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(ModelError, match="no constant tensor named 'nothing'"):
        Model.from_proto(chain(3, 4)).weights["nothing"]


def test_a_killed_save_leaves_one_model_or_the_other_whole() -> None:
    """Six kills; benchmarks/robustness/kill_save.py does two hundred."""
    endings = run_kills(6)
    assert not [ending for ending in endings if ending.startswith("TORN")], endings
