"""Quantization of a float model to int8.

1. Optionally remove the scales of a model that is quantized already (`quantization.strip`).
2. Fold batch normalisation and constants, so that every layer has one weight and one bias; raise the opset if needed
   (`quantization.opset`).
3. Place scales where the target computes in integers (`quantization.plan.placement`).
4. Find the ranges of activations, improve accuracy, and write Q/DQ nodes (`quantization.quantize_model`).
5. Optionally compare every tensor and output slice with the float model (`quantization.diagnosis`).
"""

from collections.abc import Iterable
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.flattening import flatten
from onnxsparse.analysis.layer import Layer
from onnxsparse.analysis.layer_filter import LayerPattern, choose
from onnxsparse.analysis.layers import layers
from onnxsparse.calibration.methods import DEFAULT_PERCENTILE, Method, RangeRule
from onnxsparse.calibration.preprocessing import Preprocessing, Resize
from onnxsparse.calibration.ranges import ranges_json, read_ranges
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.registry import predicting_backend
from onnxsparse.errors import ParamError
from onnxsparse.folding import fold
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, OutputFolder, Role, check_output, one_path, reading
from onnxsparse.ops.spelling import ALL_WIDTHS_OPSET
from onnxsparse.pipeline.base import OPTIONS, Bits, StepReport, WeightBits, budget_bytes, described
from onnxsparse.pipeline.learning import Learns, given_samples
from onnxsparse.quantization.accuracy.heard import hold_out_heard, with_signal
from onnxsparse.quantization.accuracy.precision_curve import curve_html, curve_json, curve_table
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.diagnosis.measure import Diagnosis, diagnose
from onnxsparse.quantization.diagnosis.page import diagnosis_html
from onnxsparse.quantization.drafts import Improvements, Rounding
from onnxsparse.quantization.export import check_export, export_files
from onnxsparse.quantization.notes import what_was_done, why_nothing
from onnxsparse.quantization.opset import raised
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.target import PowersOfTwo, QuantizationTarget, Target, load_target, names
from onnxsparse.quantization.quantize_model import QuantizedModel, Quantizing
from onnxsparse.quantization.strip.dequantize import Stripped, strip_scales
from onnxsparse.records import ArtifactWriter, text_writer
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds, processor_notes
from onnxsparse.targets.files import has_section


def check_curve_file(path: Path, option: str) -> None:
    """Raises ParamError for a name that ends otherwise, and ParamError or ModelError for a file that cannot be written."""
    if path.suffix not in (".json", ".html"):
        raise ParamError(f"{option} {path}: give a name that ends in .json or .html")
    check_output(path, option)


CurveFile = Annotated[Path, Role(check_curve_file, writes=one_path)]
"""A file for a curve, of the format that its name says."""

NO_DATA = "quantize: give calibration data with --data (npz, or a folder of arrays or images), or --ranges"
NO_DIAGNOSIS = "quantize: --diagnose needs --data: it runs both models on samples"


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Quantize(Learns):
    """Quantize a float model to int8, for the CV22 or onnxruntime, with scales chosen on calibration data.

    Weights become integers; QuantizeLinear and DequantizeLinear surround what the target computes in integers. Weights that are
    zero stay zero. Layers that are quantized already keep their scales.
    """

    name: ClassVar[str] = "quantize"
    changes_outputs: ClassVar[bool] = True

    target: QuantizationTarget = field(
        default="cv22", metadata=described(f"Target that computes the integers: {', '.join(names())}, or a TOML file.")
    )
    method: RangeRule | None = None
    """Rule for the range of an 8-bit activation: least square error (mse), least cubed error (cube), extremes (minmax), mean of
    each sample's extremes (moving-average), percentile, least divergence (entropy), or of several rules and ranges those that
    cost the outputs least (output; it takes minutes). Default: mse; with wide layers, another rule if the outputs are better by
    it while those are wide. The range of a 16-bit activation is twice its extremes."""
    percentile: Annotated[float, Field(gt=50, le=100)] = DEFAULT_PERCENTILE
    """Share of the elements inside the range of --method percentile, in per cent."""
    activation_bits: Bits | None = None
    """Activation width in bits (default: from the target file)."""
    weight_bits: WeightBits | None = None
    """Weight width in bits (default: from the target file); 7 uses half the range of 8. In place of 4 bits, wide layers have
    the target file's."""
    per_tensor: bool = False
    """Use one scale for each weight tensor, in place of one for each output channel."""
    weight_block: Annotated[int, Field(ge=16, le=256)] | None = None
    """Number of input channels that share a scale, in weights of 4 bits (--weight-bits 4): 32, 64 or 128, for instance. The
    model needs opset 21; weights whose input channels are no multiple of it keep one scale for each output channel."""
    power_of_two: PowersOfTwo | None = None
    """Numbers whose scales are powers of two (default: from the target file)."""
    memory: str = "512MB"
    """Memory for activations during calibration, in bytes (KB, MB, GB)."""
    mean: str = ""
    """Mean of the pixels of images for each channel, on a scale from 0 to 1: 0.485,0.456,0.406."""
    std: str = ""
    """Standard deviation of the pixels of images for each channel, on a scale from 0 to 1."""
    layout: Literal["nchw", "nhwc"] | None = None
    """Axis order of the model's image input (default: from its shape)."""
    resize: Resize = "crop"
    """Fit of images to the input's size: the middle cropped, stretched, or shrunk into borders (letterbox)."""
    bgr: bool = False
    """Give images with the channels in the order blue, green, red."""
    ranges: Annotated[Path, reading(read_ranges)] | None = None
    """File of activation ranges written by --save-ranges, to use in place of --data."""
    save_ranges: OutputFile | None = None
    """File for the ranges of activations (JSON), to be edited and given to --ranges."""
    only: tuple[LayerPattern, ...] = ()
    """Layers to quantize, and no others: glob, re:EXPRESSION, op:Conv, module prefix, or @FILE of those."""
    exclude: tuple[LayerPattern, ...] = ()
    """Layers to keep as floats; patterns as in --only."""
    keep_float: tuple[LayerPattern, ...] = ()
    """Nodes of any op to keep as floats; patterns as in --only."""
    requantize: bool = False
    """Drop the scales of a model that is quantized already, and choose new ones."""
    equalize: bool = False
    """Make the channels of an activation alike in range, by factors moved into the layers around it, where that is better for
    the outputs on some samples."""
    correct_bias: bool = True
    """Subtract the mean error of each layer from its bias."""
    rounding: Rounding | None = None
    """Choice of a weight's integers: the nearest ones (nearest), or those with which its layer's outputs are closest to the
    float ones, errors made up for by other weights (gptq), where that is better on held-out samples. Default: gptq for weights
    of 4 bits, else nearest."""
    wide_layers: Annotated[int, Field(ge=0)] = 0
    """Number of layers and other ops to give 16 bits or floats, as the target file says: those whose noise the outputs feel."""
    min_sqnr: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """SQNR in dB that every output and its worst slice have to reach on some of the data, in place of --wide-layers: as many
    layers as needed."""
    precision_curve: CurveFile | None = None
    """File for the SQNR of sets of wide layers of all sizes, with the latency if the target has costs (.json, or .html for a
    page with a plot that opens offline); a table is shown."""
    diagnose: bool = False
    """Show SQNR, range use and clipping of the worst activations and slices of outputs."""
    diagnosis_json: OutputFile | None = None
    """File for SQNR, range use and clipping of all activations and outputs (JSON)."""
    diagnosis_html: OutputFile | None = None
    """File for a page with charts of the diagnosis (HTML, opens offline)."""
    export: OutputFolder | None = None
    """Empty folder for samples, ranges and scales as plain files, for a vendor's own quantizer."""

    def check(self) -> None:
        """Raises ParamError or ModelError for options that are invalid, alone or together, and for missing calibration data."""
        self._check_options()
        self._target()
        budget_bytes(self.memory)
        if self.export is not None:
            check_export(self.export)
        if self.data is None and self.ranges is None:
            raise ParamError(NO_DATA)
        if self.data is None and self._diagnoses:
            raise ParamError(NO_DIAGNOSIS)

    def check_model(self, model: Model) -> None:
        """Raises ParamError for blocks in a model whose opset has none, and ModelError for data that does not fit."""
        if self._target().weights.block is not None and model.opset() < ALL_WIDTHS_OPSET:
            raise ParamError(
                f"quantize: --weight-block needs opset {ALL_WIDTHS_OPSET}, and {model.name} has {model.opset()}; convert it with "
                "onnx.version_converter.convert_version, or export it again"
            )
        super().check_model(model)

    def run(self, model: Model, samples: Iterable[Feeds] | None = None) -> StepReport:
        """Quantize `model` in place. `samples` replaces the data of the option; a tenth is held out of it for --min-sqnr
        and --precision-curve alone.

        Raises ParamError for options that do not go together or missing data, ModelError for a model or data that cannot be used,
        and PassError if a weight of zero would not stay zero.
        """
        self._check_options()
        stripped = strip_scales(model) if self.requantize else Stripped()
        notes = [f"{stripped.quantizers} quantizers removed first"] if stripped.quantizers else []
        notes += flatten(model)
        notes += [f"folded first: {count} × {what}" for what, count in fold(model, may_grow=True).notes.items()]
        before = layers(model).totals
        work, said = raised(model, self._target())
        said += processor_notes(work)
        placement = place(work, self._target(), self._kept(work))
        skipped = (*stripped.skipped, *placement.skipped)
        if not placement.units:
            notes.append(why_nothing(placement))
            return StepReport(self.name, (), skipped, notes, before, before, rewrote=len(notes) > 1)
        data, judged, said_of_samples = self._samples(work, samples)
        said += said_of_samples
        calibration = self._calibration(data)
        quality = partial(self._quality, model.copy(), judged)
        found = Quantizing(calibration, self._improvements(), quality, self._backend()).run(placement)
        diagnosis = self._diagnosis(found, data, calibration.budget_bytes)
        model.assign(found.written.model)
        return StepReport(
            self.name,
            found.written.changes,
            (*stripped.skipped, *found.placement.skipped),
            [*notes, *said, *found.notes, *what_was_done(found)],
            before,
            layers(model).totals,
            self._artifacts(found, calibration, diagnosis, model.name),
            tables=(
                *((curve_table(found.curve),) if found.curve else ()),
                *(diagnosis.tables() if diagnosis is not None and self.diagnose else ()),
            ),
            runs_here=self._target().runs_here,
            rewrote=True,
            shrank=True,
        )

    def _check_options(self) -> None:
        """Raises ParamError for options that do not go together, and for image options that cannot be read."""
        self.preprocessing()
        if self.wide_layers and self.min_sqnr is not None:
            raise ParamError("quantize: give one of --wide-layers and --min-sqnr")
        if self.equalize and self.ranges is not None:
            raise ParamError(
                "quantize: --equalize changes the ranges of activations, so that --ranges does not fit; give one of them"
            )

    def _improvements(self) -> Improvements:
        return Improvements(
            self.equalize,
            self.correct_bias,
            self.wide_layers,
            self.min_sqnr,
            self.rounding,
            curve=self.precision_curve is not None,
            felt_ranges=self.method == "output",
            any_rule=self.method is None,
        )

    def _quality(self, original: Model, samples: Samples | None, quantized: Model) -> float | None:
        """SQNR of the worst output or slice in dB; None if no output can be compared. Raises ParamError without samples."""
        if samples is None:
            option = "--min-sqnr" if self.min_sqnr is not None else "--precision-curve"
            raise ParamError(f"quantize: {option} judges on samples that were not calibrated on: give --test, or more samples")
        return compare(original, quantized, samples).worst_sqnr_db

    def _backend(self) -> CostBackend | None:
        """What predicts the cost of the target; None if its file has no costs."""
        return predicting_backend(self.target, "quantize") if has_section(self.target, "cost") else None

    @property
    def _diagnoses(self) -> bool:
        return self.diagnose or self.diagnosis_json is not None or self.diagnosis_html is not None

    def _diagnosis(self, found: QuantizedModel, data: Samples | None, budget: int) -> Diagnosis | None:
        if not self._diagnoses:
            return None
        if data is None:
            raise ParamError(NO_DIAGNOSIS)
        return diagnose(found, data, budget)

    def _target(self) -> Target:
        return load_target(self.target).changed(
            activation_bits=self.activation_bits,
            weight_bits=self.weight_bits,
            per_channel=False if self.per_tensor else None,
            block=self.weight_block,
            power_of_two=self.power_of_two,
        )

    def _kept(self, model: Model) -> dict[int, str]:
        """Node index → why it stays float by the options."""
        graph = Graph(model.proto.graph)
        facts = layers(model, count=False)
        every = [Layer(name, node.op_type, name, None, ()) for name, node in zip(graph.names, graph.proto.node, strict=True)]
        kept = dict.fromkeys(choose(facts, self.exclude, "quantize: --exclude", model.name), "--exclude names it")
        kept |= dict.fromkeys(choose(every, self.keep_float, "quantize: --keep-float", model.name), "--keep-float names it")
        if self.only:
            chosen = choose(facts, self.only, "quantize: --only", model.name)
            kept |= {layer.node: "--only leaves it out" for layer in facts if layer.node not in chosen}
        return {index: kept[name] for index, name in enumerate(graph.names) if name in kept}

    def _samples(self, model: Model, given: Iterable[Feeds] | None) -> tuple[Samples | None, Samples | None, list[str]]:
        """The samples to calibrate on, those to judge wide layers on, and notes. Raises ParamError without samples or ranges."""
        judges = self.min_sqnr is not None or self.precision_curve is not None
        if given is None or self.data is not None:
            if self.data is None and self.ranges is None:
                raise ParamError(NO_DATA)
            learned, judged = self.split(model)
            if not judges or self.test is not None or learned is None or judged is None:
                return learned, judged, []
            return with_signal(model, learned, judged)
        samples, test = given_samples(given, model), None if self.test is None else self.split(model)[1]
        return hold_out_heard(model, samples) if judges and test is None and len(samples) > 1 else (samples, test, [])

    def preprocessing(self) -> Preprocessing:
        """How images become inputs: by --preprocess or by the options for images. Raises ParamError if both are given."""
        mean, std = numbers("--mean", self.mean), numbers("--std", self.std)
        channels: Literal["rgb", "bgr"] = "bgr" if self.bgr else "rgb"
        options = Preprocessing(mean=mean, std=std, layout=self.layout, resize=self.resize, channels=channels)
        if self.preprocess is None:
            return options
        if options != Preprocessing():
            raise ParamError("quantize: give --preprocess, or --mean, --std, --layout, --resize and --bgr, not both")
        return super().preprocessing()

    def _calibration(self, data: Samples | None) -> Calibration:
        given = {} if self.ranges is None else read_ranges(self.ranges)
        return Calibration(data, self._method, self.percentile, budget_bytes(self.memory), given)

    @property
    def _method(self) -> Method:
        """The rule that comes first."""
        return "mse" if self.method in (None, "output") else self.method

    def _artifacts(
        self, found: QuantizedModel, calibration: Calibration, diagnosis: Diagnosis | None, name: str
    ) -> dict[Path, ArtifactWriter]:
        made: dict[Path, ArtifactWriter] = {}
        if self.save_ranges is not None:
            made[self.save_ranges] = text_writer(ranges_json(found.ranges, found.method, found.samples))
        if diagnosis is not None and self.diagnosis_json is not None:
            made[self.diagnosis_json] = text_writer(diagnosis.to_json(name))
        if diagnosis is not None and self.diagnosis_html is not None:
            made[self.diagnosis_html] = text_writer(diagnosis_html(diagnosis, name))
        if self.precision_curve is not None:
            write = curve_html if self.precision_curve.suffix == ".html" else curve_json
            made[self.precision_curve] = text_writer(write(found.curve, name, self._target().name))
        if self.export is not None:
            made |= export_files(self.export, found, calibration)
        return made


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers of a text, separated by commas. Raises ParamError that names `option` for anything else."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ParamError(f"quantize: {option} {text}: give numbers with commas between them, as 0.485,0.456,0.406") from None
