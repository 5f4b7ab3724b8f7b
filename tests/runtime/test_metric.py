"""Metrics and labels: values worked out by hand, and one clear line for every fault."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnxsparse import Model, ParamError
from onnxsparse.calibration.data import open_data
from onnxsparse.runtime.judge import Judge
from onnxsparse.runtime.metric import Metric, MetricResult, TestData, load_metric, number
from onnxsparse.runtime.samples import Samples, hold_out
from tests.commands import Run
from tests.graphs import model, node

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "sample_models" / "digits.onnx"
DIGITS_TEST = ROOT / "sample_models" / "digits_test.npz"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores(batch: int = 1) -> Model:
    """Its output is its input: a score for each of three classes."""
    return model([node("Identity", "x", "y")], {"x": f"{batch}x3"})


def one_hot(*classes: int, batch: int = 1) -> Samples:
    """Samples of `batch` rows whose largest element is at these classes."""
    rows = np.eye(3, dtype=np.float32)[list(classes)].reshape(-1, batch, 3)
    return Samples([{"x": row} for row in rows])


def labelled(text: str, file: str = "labels.txt") -> Path:
    Path(file).write_text(text)
    return Path(file)


def written(code: str, file: str = "eval.py") -> str:
    Path(file).write_text(code)
    return f"{file}:score"


def refused(text: str, labels: Path | None = None) -> str:
    with pytest.raises(ParamError) as caught:
        load_metric(text, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failing(metric: Metric, samples: Samples | None = None, of: Model | None = None) -> str:
    with pytest.raises(ParamError) as caught:
        metric.measure(of or scores(), samples or one_hot(0, 1))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the result


def test_a_drop_is_before_less_after() -> None:
    found = MetricResult("top1", "points", 99.75, 99.25)
    assert found.drop == 0.5
    assert found.to_json() == {"name": "top1", "unit": "points", "before": 99.75, "after": 99.25, "drop": 0.5}


# top1


def test_top1_is_a_share_in_points() -> None:
    metric = load_metric("top1", labelled("0\n1\n2\n0\n"))
    assert metric.unit == "points"
    assert metric.measure(scores(), one_hot(0, 1, 2, 1)) == 75


def test_top1_counts_rows() -> None:
    metric = load_metric("top1", labelled("0\n1\n2\n0\n2\n2\n"))
    assert metric.measure(scores(2), one_hot(0, 1, 2, 1, 0, 0, batch=2)) == 50


def test_samples_held_out_have_their_own_labels() -> None:
    classes = [0, 1, 2, 1, 0, 2, 1, 1, 2, 0]
    learned, judged = hold_out(one_hot(*classes))
    metric = load_metric("top1", labelled("\n".join(map(str, classes))))
    assert list(judged.places) == [5]
    assert metric.measure(scores(), judged) == 100
    assert metric.measure(scores(), learned) == 100
    wrong = load_metric("top1", labelled("\n".join("2" if at == 5 else "0" for at in range(10)), "other.txt"))
    assert wrong.measure(scores(), judged) == 100
    assert wrong.measure(scores(), learned) == pytest.approx(100 * 3 / 9)


def test_a_row_with_nan_is_wrong() -> None:
    samples = Samples([{"x": np.array([[np.nan, 0, 1]], np.float32)}, {"x": np.array([[1, 0, 0]], np.float32)}])
    assert load_metric("top1", labelled("0\n0\n")).measure(scores(), samples) == 50


def test_top1_finds_the_output_by_its_form() -> None:
    nodes = [node("Identity", "x", "y"), node("ArgMax", "x", "chosen", axis=1)]
    both = model(nodes, {"x": "1x3"}, ["chosen", "y"])
    assert load_metric("top1", labelled("1\n1\n")).measure(both, one_hot(0, 1)) == 50


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (["y", "z"], "--metric top1: y and z may be a classifier's outputs"),
        (["total"], "--metric top1: no output is a classifier's, a row of 3 floats or more for each row of the inputs; "),
    ],
)
def test_top1_names_the_outputs_that_it_cannot_choose_from(outputs: list[str], said: str) -> None:
    nodes = [node("Identity", "x", "y"), node("Neg", "x", "z"), node("ReduceSum", "x", "total", keepdims=0)]
    message = failing(load_metric("top1", labelled("0\n1\n")), of=model(nodes, {"x": "1x3"}, outputs))
    assert message.startswith(said)
    assert all(name in message for name in outputs)


def test_top1_needs_labels() -> None:
    assert refused("top1") == "--metric top1: it compares classes with labels; give --labels"


def test_a_label_is_a_class() -> None:
    said = failing(load_metric("top1", labelled("0\n3\n")))
    assert said == "--labels labels.txt: label 3 is no class of output 'y', which has 0 to 2"


@pytest.mark.parametrize(
    ("text", "batch", "said"),
    [
        ("0\n", 1, "1 labels for 2 samples of the given samples"),
        ("0\n1\n2\n", 1, "3 labels for 2 samples of the given samples"),
        ("0\n1\n2\n", 2, "3 labels for 2 samples of the given samples, which have 4 rows"),
        ("0\n1\n", 2, "2 labels for 4 rows of 2 samples"),
    ],
)
def test_the_number_of_labels_has_to_match(text: str, batch: int, said: str) -> None:
    samples = one_hot(*[0] * 2 * batch, batch=batch)
    assert failing(load_metric("top1", labelled(text)), samples, scores(batch)) == f"--labels labels.txt: {said}"


# the user's function


def test_the_function_gets_the_session_and_the_data() -> None:
    seen: list[Any] = []

    def score(session: onnxruntime.InferenceSession, data: TestData) -> float:
        feeds = list(data)
        seen.append((type(session), len(data), data.names, data.labels_file, data.labels, feeds[1]["x"].tolist()))
        return float(session.run(None, feeds[1])[0].sum())

    assert Metric("mine", "", score, labelled("1\n2\n")).measure(scores(), one_hot(0, 1)) == 1
    kind, length, names, file, labels, row = seen[0]
    assert (kind, length, names, file) == (onnxruntime.InferenceSession, 2, ("0", "1"), Path("labels.txt"))
    assert labels.tolist() == [1, 2]
    assert row == [[0, 1, 0]]


def test_labels_are_read_only_if_the_function_asks() -> None:
    Path("coco.json").write_text("{}")
    written("def score(session, data): return len(data)\ndef asks(session, data): return data.labels[0]\n")
    assert load_metric("eval.py:score", Path("coco.json")).measure(scores(), one_hot(0, 1)) == 2
    assert "data.labels_file" in failing(load_metric("eval.py:asks", Path("coco.json")))
    assert TestData(one_hot(0)).labels is None


def test_integers_are_computed_as_written() -> None:
    written("def score(session, data): return session.get_session_options().graph_optimization_level.value\n")
    quantized = [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s", "y")]
    built = model(quantized, {"x": "1x3"}, weights={"s": np.array(0.1, np.float32)})
    assert load_metric("eval.py:score", None).measure(built, one_hot(0)) == 0  # ORT_DISABLE_ALL


def test_a_file_may_import_from_its_own_folder() -> None:
    Path("deep").mkdir()
    Path("deep/beside_metric.py").write_text("FIVE = 5\n")
    path = list(sys.path)
    metric = load_metric(
        written("from beside_metric import FIVE\ndef score(session, data): return FIVE\n", "deep/eval.py"),
        None,
    )
    assert metric.measure(scores(), one_hot(0)) == 5
    assert (metric.name, metric.unit, sys.path) == ("deep/eval.py:score", "", path)
    assert not list(Path("deep").rglob("eval.*.pyc"))


def test_a_module_comes_from_the_current_folder() -> None:
    written("def score(session, data): return 4\n", "module_of_this_test.py")
    path = list(sys.path)
    assert load_metric("module_of_this_test:score", None).measure(scores(), one_hot(0)) == 4
    assert sys.path == path


def test_a_file_runs_once_until_it_changes() -> None:
    code = "open('runs', 'a').write('.')\ndef score(session, data): return {}\n"
    for value in (1, 1, 2):
        text = written(code.format(value))
        assert load_metric(text, None).measure(scores(), one_hot(0)) == value
        assert load_metric(text, None).measure(scores(), one_hot(0)) == value
    assert Path("runs").read_text() == ".."


def test_what_a_metric_prints_does_not_mix_with_results(capsys: pytest.CaptureFixture[str]) -> None:
    load_metric(written("print('at first')\ndef score(s, d):\n  print('later')\n  return 1\n"), None).measure(
        scores(), one_hot(0)
    )
    assert capsys.readouterr() == ("", "at first\nlater\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top5", "no such metric; give top1, module:function or file.py:function; did you mean top1?"),
        ("accuracy", "no such metric; give top1, module:function or file.py:function"),
        ("eval.py:", "name a module or file and its function, as module:function or file.py:function"),
        ("no.py:score", "no.py: No such file or directory"),
        ("no_such_module:score", "no module 'no_such_module' in the current folder or the Python environment; for a file, "),
        ("my-eval:score", "'my-eval' is neither a module nor a file that ends in .py"),
        ("eval.py:scroe", "eval.py has no function 'scroe'; did you mean 'score'? it has score, one, four"),
        ("eval.py:zzz", "eval.py has no function 'zzz'; it has score, one, four"),
        ("eval.py:NUMBER", "NUMBER is no function but of type int"),
        (
            "eval.py:one",
            "the function takes (session); it is called with 2 arguments, a session of onnxruntime and the test data",
        ),
        ("eval.py:four", "the function takes (a, b, c, d=1); it is called with 2 arguments"),
        ("broken.py:score", "SyntaxError: invalid syntax (broken.py, line 2)"),
        ("raises.py:score", "ZeroDivisionError: division by zero (raises.py, line 2)"),
        ("raises:score", "ZeroDivisionError: division by zero (raises.py, line 2)"),
        ("exits.py:score", "SystemExit: 3 (exits.py, line 2)"),
        ("needs.py:score", "ModuleNotFoundError: No module named 'no_such_module' (needs.py, line 1)"),
        ("needs:score", "ModuleNotFoundError: No module named 'no_such_module' (needs.py, line 1)"),
    ],
)
def test_a_metric_that_cannot_be_loaded_is_refused(text: str, said: str) -> None:
    written("NUMBER = 1\ndef score(s, d): ...\ndef one(session): ...\ndef four(a, b, c, d=1): ...\ndef _own(): ...\n")
    written("x = 1\ndef score(:\n", "broken.py")
    written("x = 1\nx / 0\n", "raises.py")
    written("import sys\nsys.exit(3)\n", "exits.py")
    written("import no_such_module\n", "needs.py")
    assert refused(text).startswith(f"--metric {text}: {said}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('first\\nsecond')", "ValueError: first (eval.py, line 2)"),
        ("raise ValueError", "ValueError (eval.py, line 2)"),
        ("return helper()", "KeyError: 'y' (eval.py, line 3)"),
        ("raise SystemExit(1)", "SystemExit: 1 (eval.py, line 2)"),
        (
            "return session.run(['no'], {})",
            "ValueError: Required inputs (['x']) are missing from input feed ([]). (eval.py, line 2)",
        ),
        ("import decimal; return decimal.Decimal('x')", "InvalidOperation: "),
        ("return float('nan')", "the function returned nan, which cannot be compared; return a finite number"),
        ("return 10 ** 400", "the function returned inf, which cannot be compared; return a finite number"),
        ("pass", "the function returned None; return one number, higher is better"),
        ("return {'map': 1}", "the function returned a value of type dict; return one number, higher is better"),
    ],
)
def test_a_metric_that_fails_says_where(body: str, said: str) -> None:
    text = written(f"def score(session, data):\n  {body}\ndef helper(): return {{}}['y']\n")
    assert failing(load_metric(text, None)).startswith(f"--metric eval.py:score: {said}")


def test_the_place_of_a_fault_is_in_the_users_file() -> None:
    text = written("import json\ndef score(session, data):\n  return json.loads('{')\n")
    assert failing(load_metric(text, None)).endswith("(eval.py, line 3)")


def test_a_key_press_stops_a_metric() -> None:
    metric = load_metric(written("def score(session, data): raise KeyboardInterrupt\n"), None)
    with pytest.raises(KeyboardInterrupt):
        metric.measure(scores(), one_hot(0))


def test_a_sample_that_cannot_be_read_is_no_fault_of_the_metric() -> None:
    np.save("d.npy", np.zeros((2, 7), np.float32))
    metric = load_metric(written("def score(session, data): return len(list(data))\n"), None)
    with pytest.raises(Exception, match=r"^--data d\.npy: input 'x'"):
        metric.measure(scores(), open_data(Path("d.npy"), scores()))


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2), np.array([[2.0]]), np.float16(2)])
def test_a_number_may_come_from_numpy(value: object) -> None:
    assert number(value, "") == 2


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), "2", [2.0], (2.0,), 2j, np.array([1, 2]), np.array("2"), np.zeros(0), {}, min]
)
def test_anything_else_is_no_number(value: object) -> None:
    with pytest.raises(ParamError, match=r"^here: the function returned (a value of type|an array of).*; return one number"):
        number(value, "here")


def test_one_metric_with_other_labels_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(scores(), one_hot(0, 1))
    both: list[Callable[[], float]] = [
        lambda: judge.before(load_metric("top1", labelled("0\n1\n", "right.txt"))),
        lambda: judge.before(load_metric("top1", labelled("0\n2\n", "half.txt"))),
    ]
    assert [one() for one in both] == [100, 50]
    monkeypatch.setattr(Metric, "measure", lambda *_: pytest.fail("measured again"))
    assert [one() for one in both] == [100, 50]


# the command


def test_the_digits_as_on_the_command_line(run: Run) -> None:
    given = ["--test", DIGITS_TEST, "--metric", "top1", "--labels", f"{DIGITS_TEST}:y", "--max-drop", 0.5]
    assert run("compare", DIGITS, DIGITS, *given) == 0, run.err
    assert "top1: 99.75 before, 99.75 after" in run.out


def test_a_wrong_metric_is_one_line(run: Run) -> None:
    assert run.fails(2, "compare", DIGITS, DIGITS, "--test", DIGITS_TEST, "--metric", "no.py:f").endswith(
        "--metric no.py:f: no.py: No such file or directory\n"
    )
