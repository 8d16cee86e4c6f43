"""Writes a checkpoint as a converted folder: one folder per component, MLX's own names and axis order.

Peak memory is about the largest tensor, whatever the source's size: tensors are read, written and dropped one by one.
The folder appears whole or not at all; its marker says what it is, so it is never renamed a second time.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.checkpoint import Checkpoint, Part
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.layouts.converted import FOLDERS, MARKER
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion.tokens import positions
from mlx_video.lending.visits import Ways, release
from mlx_video.media.files import check_new_folder, replacing
from mlx_video.types import Listener, Tree, UserError, Watch
from mlx_video.weights import names, quantize
from mlx_video.weights.quantize import BITS, Quantization
from mlx_video.weights.store import state_of
from mlx_video.weights.write import Pending, write, write_shards

if TYPE_CHECKING:
    from mlx_video.runner import Runner

log = logging.getLogger(__name__)

SPARE_BYTES = 64 << 20
"""Room that a conversion leaves on the disk beyond what it writes."""
SOUND = ("audio_decoder", "audio_encoder", "vocoder")
MEGABYTE = 1_000_000
TEXT_ENCODER = "text_encoder"
"""Where a converted folder keeps its text encoder."""
_COPIED = (".json", ".model", ".jinja", ".txt")
"""Files of a text encoder that are about text."""


@dataclass(frozen=True)
class Wishes:
    """How a checkpoint is to be written.

    dtype: of the 16-bit tensors; None keeps the source's. float32 tensors (the scale-shift tables) stay float32, and
    the vocoder keeps its own precision, because it computes in float32 always. audio: False leaves everything for
    sound out. text_encoder: noted as the folder's, or quantized into it where `text_quantization` is given.
    """

    dtype: mx.Dtype | None = None
    audio: bool = True
    quantization: Quantization | None = None
    text_encoder: str | None = None
    text_quantization: Quantization | None = None


@dataclass
class _Job:
    """One folder or file to write; `tensors` are lazy, and gone once written."""

    name: str
    place: str
    tensors: dict[str, Pending]
    metadata: dict[str, str]
    files: list[Path] = field(default_factory=list)
    """Copied beside them."""
    texts: dict[str, str] = field(default_factory=dict)
    """Written beside them, by name."""

    @property
    def nbytes(self) -> int:
        """Bytes to write."""
        return sum(tensor.nbytes for tensor in self.tensors.values()) + sum(file.stat().st_size for file in self.files)


class Converted(NamedTuple):
    """What came of a conversion."""

    source: Path
    errors: dict[int, float]
    """Where it was quantized: bits -> relative error of the first block's output."""


class Convert:
    """A checkpoint to a folder with one part per component."""

    ways = Ways()

    def __init__(self, output: str | Path, variant: str, wishes: Wishes):
        """variant: which checkpoint, where the source has both."""
        self._output, self._variant, self._wishes = Path(output), variant, wishes

    def check(self, watch: Watch) -> None:
        """Where it is to be written is looked at when its size is known."""

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Raises UserError where there is no such checkpoint, or no text encoder that goes with it."""
        place = locate.source(runner.where, self._variant, outlines.take)
        self._checkpoint = open_checkpoint(place, self._variant)
        encoder = runner.text_encoder or locate.own_text_encoder(runner.where)
        if self._wishes.text_quantization is not None:
            self._checkpoint, source = locate.text_encoder(encoder, self._checkpoint, outlines.take)
            encoder = str(source.path)
        self._place, self._encoder = place, encoder
        return ()

    def run(self, watch: Watch) -> Converted:
        """Writes the folder."""
        how = self._wishes.quantization
        convert(self._checkpoint, self._output, replace(self._wishes, text_encoder=self._encoder), watch.report)
        return Converted(self._place, block_errors(self._checkpoint, how.group_size) if how else {})


def convert(
    checkpoint: Checkpoint, output: Path, wishes: Wishes | None = None, report: Listener = lambda progress: None
) -> None:
    """Writes `checkpoint` to the folder `output`, which must not exist.

    Raises UserError where the output is there already, cannot be written or does not fit on the disk, where a value
    does not fit the precision asked for, and where the source changes meanwhile; nothing is left then.
    """
    wishes = wishes or Wishes()
    if any(part.form == "native" for part in checkpoint.parts.values()) and not (wishes.dtype or wishes.quantization):
        raise UserError(f"{checkpoint.source} is converted already.")
    before = {file: state_of(file) for file in _files_of(checkpoint, wishes)}
    components = [name for name in FOLDERS if name in checkpoint.parts and (wishes.audio or name not in SOUND)]
    jobs, how = [], None
    for name in components:
        job, found = _component(checkpoint, name, wishes)
        how = found if name == "transformer" else how
        jobs.append(job)
    jobs += _extras(checkpoint, wishes)
    check_new_folder(output, needed=sum(job.nbytes for job in jobs) + SPARE_BYTES)
    with replacing(output, folder=True) as folder:
        for job in jobs:
            with _unchanged(before):
                _write(job, folder, report)
        marker = {
            "format": 1,
            "source": checkpoint.source.name,
            "variant": checkpoint.variant,
            "model_version": checkpoint.version,
            "distilled_by": "lora" if checkpoint.distilled_by_lora else None,
            "text_encoder": _noted(wishes, checkpoint),
            "components": components,
            "quantization": None if how is None else how._asdict(),
            "config": checkpoint.config,
            "configs": _own_configs(checkpoint, components),
        }
        (folder / MARKER).write_text(json.dumps(marker, indent=1))


def _own_configs(checkpoint: Checkpoint, components: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """What is said of components in files of their own, and is not in the checkpoint's config."""
    own = {name: checkpoint.part(name).settings for name in components}
    return {
        name: settings
        for name, settings in own.items()
        if any(checkpoint.config.get(key) != value for key, value in settings.items())
    }


def _noted(wishes: Wishes, checkpoint: Checkpoint) -> str | None:
    """What a folder notes of its text encoder: where it lies inside, or an id; never a path of this machine."""
    if wishes.text_quantization is not None:
        return TEXT_ENCODER
    where = wishes.text_encoder or checkpoint.text_encoder
    if where is None or where == demo.NAME or locate.is_hub_id(where):
        return where
    path = Path(where).expanduser().resolve()
    if demo.FOLDER.resolve() in path.parents:
        return demo.NAME
    cached = [part for part in Path(where).expanduser().absolute().parts if part.startswith("models--")]
    if cached:
        return cached[-1].removeprefix("models--").replace("--", "/", 1)
    log.warning(
        "%s is not noted in the folder, which may be moved away from it: put it there%s, or name it with "
        "--text-encoder-repo in each run.", where, " as gemma/" if path.is_dir() else "",
    )  # fmt: skip
    return None


def _files_of(checkpoint: Checkpoint, wishes: Wishes) -> Iterator[Path]:
    yield from checkpoint.files
    if wishes.text_quantization is not None and wishes.text_encoder is not None:
        place = Path(wishes.text_encoder)
        yield from sorted(place.iterdir()) if place.is_dir() else [place]


@contextmanager
def _unchanged(before: Mapping[Path, object]) -> Iterator[None]:
    """Raises UserError where a file of the source changed meanwhile, and not what reading it then raised."""
    try:
        yield
    except (RuntimeError, FileNotFoundError) as error:
        _check_unchanged(before, error)
        raise
    _check_unchanged(before, None)


def _check_unchanged(before: Mapping[Path, object], cause: Exception | None) -> None:
    for file, state in before.items():
        if state_of(file) != state:
            raise UserError(f"{file} changed while it was being converted; nothing was written.") from cause


def _component(checkpoint: Checkpoint, name: str, wishes: Wishes) -> tuple[_Job, Quantization | None]:
    """What to write of a component, and how its layers are quantized."""
    part = checkpoint.part(name)
    options: dict[str, Any] = {"audio": wishes.audio and checkpoint.audio} if name == "transformer" else {}
    network = checkpoint.build(name, **options)
    dtype = None if part.component.always_float32 else wishes.dtype
    arrays = names.native_arrays(network, part.load(dtype or mx.bfloat16), part.component.label, form=part.form)
    how = quantize.used(network)
    if name == "transformer" and wishes.quantization is not None:
        if how is not None:
            raise UserError(f"{checkpoint.source} is quantized already ({how}); leave --quantize out.")
        how = wishes.quantization
        blocks = quantize.chosen(network.transformer_blocks, how)
        paths = {f"transformer_blocks.{i}.{path}" for i, found in enumerate(blocks) for path in found}
        arrays = quantize.pack(arrays, paths, how)
    release(network)
    return _Job(name, FOLDERS[name], _pending(arrays, dtype), {"format": "mlx", "component": name}), how


def _pending(arrays: Mapping[str, mx.array], dtype: mx.Dtype | None) -> dict[str, Pending]:
    """To be written in `dtype` where they are of 16 bit; None keeps what they are in."""

    def kept(array: mx.array) -> mx.Dtype:
        narrow = mx.issubdtype(array.dtype, mx.floating) and array.dtype != mx.float32
        return dtype if narrow and dtype is not None else array.dtype

    return {name: Pending(array, kept(array)) for name, array in sorted(arrays.items())}


def _extras(checkpoint: Checkpoint, wishes: Wishes) -> list[_Job]:
    jobs = [_upsampler(kind, part) for kind, part in checkpoint.upsamplers.items()]
    if checkpoint.distilled_lora is not None:
        jobs.append(_Job("distilled lora", "", {}, {}, [checkpoint.distilled_lora]))
    if wishes.text_quantization is not None:
        folder = Path(checkpoint.need("text encoder", wishes.text_encoder, "name it with --text-encoder-repo."))
        jobs.append(_text_encoder(TextSource.open(checkpoint.family, folder), wishes.text_quantization, wishes.dtype))
    return jobs


def _text_encoder(source: TextSource, how: Quantization, dtype: mx.Dtype | None) -> _Job:
    """A copy of a text encoder with its language model's linear layers in few bits, and everything else as it is.

    It keeps Hugging Face's form and names, with `quantization` in its config.json as mlx-lm writes it, so that other
    MLX programs read it too; a single file becomes such a folder, of its language model alone. Raises UserError where
    it is quantized already.
    """
    if source.config.quantization is not None:
        raise UserError(f"{source.path} is quantized already; leave --quantize-text-encoder out, and copy it as it is.")
    network, arrays = source.network(), source.load(mx.bfloat16)
    pairs = names.match(network, {name: array.shape for name, array in arrays.items()}, source.what)
    found = quantize.chosen(source.text.layers_of(network), how)
    paths = {f"model.layers.{i}.{path}" for i, some in enumerate(found) for path in some}
    layers = {name.removesuffix(".weight") for name, path in pairs.items() if path.removesuffix(".weight") in paths}
    if source.single:
        arrays = {name: arrays[name] for name in pairs}
    pending = _pending(quantize.pack(arrays, layers, how), dtype)
    values = source.settings | {"quantization": {"group_size": how.group_size, "bits": how.bits}}
    written = {**source.texts_within(), "config.json": json.dumps(values, indent=1)}
    left_out = (*written, "model.safetensors.index.json")
    beside = () if source.single else source.files.values()
    copied = [file for file in beside if file.suffix in _COPIED and file.name not in left_out]
    return _Job("text encoder", TEXT_ENCODER, pending, {"format": "mlx"}, copied, written)


def _upsampler(kind: str, part: Part) -> _Job:
    if part.form == "official":
        return _Job(f"{kind} upsampler", "", {}, {}, part.tensors.paths)
    # The file beside a converted folder is an official one, so that all layouts read it alike.
    network = part.build()
    arrays = names.official_arrays(network, part.load(), "upsampler", form=part.form)
    file = f"{kind.replace(' ', '-upscaler-')}.safetensors"
    return _Job(f"{kind} upsampler", file, _pending(arrays, None), {"config": json.dumps(dict(part.settings))})


def _write(job: _Job, folder: Path, report: Listener) -> None:
    steps, done = platform.Steps(job.name.replace("_", " "), max(job.nbytes // MEGABYTE, 1), report), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        steps.tell(min(done // MEGABYTE, steps.total), end=False)

    place = folder / job.place
    if place.suffix == ".safetensors":
        write(place, job.tensors, job.metadata, told)
    elif job.tensors:
        place.mkdir(parents=True)
        write_shards(place, job.tensors, job.metadata, told)
    for file in job.files:
        shutil.copyfile(file, place / file.name)
    for name, text in job.texts.items():
        (place / name).write_text(text, encoding="utf-8")
    steps.tell(steps.total)


def block_errors(checkpoint: Checkpoint, group_size: int) -> dict[int, float]:
    """What few bits cost: bits -> ||quantized - source|| / ||source|| of the first block's output, in float32, with its
    real weights on random tokens; of the worse modality.

    Raises UserError where nothing can be quantized in groups of that size.
    """
    trial, part, audio = checkpoint.family.trial(), checkpoint.part("transformer"), checkpoint.audio
    network = checkpoint.build("transformer", audio=audio)
    arrays = names.native_arrays(network, part.load(mx.bfloat16), "transformer", form=part.form)
    weights = [(path.removeprefix(trial.FIRST), a) for path, a in arrays.items() if path.startswith(trial.FIRST)]
    outputs: dict[int, Tree] = {}
    cached = mx.set_cache_limit(0)  # of a real block's products, freed buffers alone would come to 1.5 GB
    try:
        for bits in (0, *BITS):
            block = trial.block(part.settings, audio)
            block.load_weights(weights)
            if bits:
                quantize.quantize([block], Quantization(bits, group_size), mx.float32)
            outputs[bits] = trial.call(block, part.settings, audio, positions)
            mx.eval(outputs[bits])
    finally:
        mx.set_cache_limit(cached)
    return {bits: _distance(outputs[bits], outputs[0]) for bits in BITS}


def _distance(ours: Tree, source: Tree) -> float:
    squares = [mx.square(ours[m] - source[m]).sum() / mx.square(source[m]).sum() for m in source]
    return float(mx.sqrt(mx.stack(squares).max()))  # type: ignore[arg-type]
