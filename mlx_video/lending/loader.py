"""Lends networks: builds one, gives it its weights, and empties it when the borrower is done.

`with loader.borrow("video_decoder") as decoder:` is how every pipeline gets a network; on exit it is emptied with
`clear()`, because `del` frees nothing while a closure still holds the module. Knows checkpoints and components; knows
no recipe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_video import platform
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.checkpoint import Checkpoint, Part
from mlx_video.checkpoints.hub.models import full_name
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.layouts.neighbours import upsampler_part
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.lending.adapters import adapt_anew, is_adapted
from mlx_video.lending.shelf import Shelf
from mlx_video.lending.visits import Files, Streamed, Ways, release
from mlx_video.models.families import DEFAULT, FAMILIES
from mlx_video.types import UserError
from mlx_video.weights import names, quantize
from mlx_video.weights.quantize import Quantization

log = logging.getLogger(__name__)


class Loader:
    """Lends the networks of one checkpoint, each in its own precision of the run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: mx.Dtype | None = None,
        quantization: Quantization | None = None,
        ways: Ways | None = None,
        vae_dtype: mx.Dtype | None = None,
    ):
        """dtype: of transformer and text; vae_dtype: of autoencoders and upsamplers; quantization: of the
        transformer's blocks. What is None is as the platform computes best.
        """
        self.checkpoint, self.ways = checkpoint, ways or Ways()
        self.dtype = dtype or platform.compute_dtype()
        self.vae_dtype = vae_dtype or platform.autoencoder_dtype(dtype)
        # Gemma's activations leave float16's range.
        self.text_dtype = platform.compute_dtype(wide_range=True) if self.dtype == mx.float16 else self.dtype
        self.quantization = quantization
        self.shelf: Shelf | None = None
        """Where networks stay between borrowers; None: nowhere."""

    def check(self, component: str, **options: Any) -> None:
        """Raises UserError where a component's tensors do not fit its network; reads headers, and no tensor.

        A run checks all that it will borrow before it borrows the first: a decoder that does not fit would else be
        found after an hour of denoising.
        """
        known, key = self.checkpoint.known, ("fits", component, *options.items())
        if key in known:
            return
        if component == "upsampler":
            part = self.upsampler(**options)
            network, options = part.build(), {}
        else:
            part = self.checkpoint.part(component)
            network = self.checkpoint.skeleton(component, **options)
        names.match(network, part.shapes(), part.what, form=part.form)
        self.checkpoint.family.check_geometry(
            component, part.settings, str(part.tensors.paths[0]),
            **{"audio": self.checkpoint.audio, **options}, **part.measured,
        )  # fmt: skip
        known[key] = True

    @property
    def computed(self) -> dict[str, Any]:
        """How networks compute, for a file's settings: types by the options that say them, and bits."""
        types = {"dtype": self.dtype, "vae_dtype": self.vae_dtype}
        found: dict[str, Any] = {name: str(dtype).rpartition(".")[2] for name, dtype in types.items()}
        return found if self.quantization is None else {**found, "quantize": self.quantization.bits}

    def dtype_of(self, component: str) -> mx.Dtype:
        """What a component computes in."""
        kind = self.checkpoint.family.components[component]
        if kind.always_float32:
            return mx.float32
        return self.vae_dtype if kind.autoencoder else self.dtype

    @contextmanager
    def borrow(
        self, component: str, *, streamed: bool | None = None, loras: Hashable = (), **options: Any
    ) -> Iterator[nn.Module]:
        """One network with its weights, emptied on exit, or put on the shelf. `options` go to the reader of its config.

        streamed: read it part by part whenever it is called (transformer and connectors); None: as the run's ways say.
        loras: what borrowers add to it; those of a shelf that add the same have one network together.
        """
        part, streamed = self.checkpoint.part(component), self.ways.streams(component) if streamed is None else streamed
        key = (component, streamed, loras, *options.items())

        def make() -> nn.Module:
            network = self.checkpoint.take(component, **options)
            how = self.quantization if component == "transformer" else None
            (stream_weights if streamed else give_weights)(network, part, self.dtype_of(component), how)
            return network

        with self._lent(key, part, self.dtype_of(component), make) as network:
            if component == "transformer":
                network.keep_text = self.ways.keep_text
                if isinstance(network.parts, Streamed):
                    network.parts.keep(self.ways.kept)
            yield network

    @contextmanager
    def _lent(self, key: Hashable, part: Part, dtype: mx.Dtype, make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
        if self.shelf is not None:
            whole = (key, tuple(part.tensors.paths), part.prefixes, dtype, self.quantization)
            size = part.tensors.nbytes(part.prefixes)
            with self.shelf.lend(whole, make, size, is_adapted) as network:
                yield network
            return
        network = make()
        try:
            yield network
        finally:
            release(network)

    @contextmanager
    def aside(self, transformer: nn.Module, **options: Any) -> Iterator[None]:
        """Within it a borrowed transformer has no weights, where the run's ways say so; then they are read anew, and
        LoRAs are to be added again. `options` are those that it was borrowed with. Of several borrowers of one
        transformer, who may all be in here at once, the first that leaves has them read.
        """
        if self.ways.step_aside:
            release(transformer)
        yield
        if self.shelf is not None:
            self.shelf.make_room()
        if self.ways.step_aside and not transformer:
            again, streamed = self.checkpoint.build("transformer", **options), isinstance(transformer.parts, Streamed)
            give = stream_weights if streamed else give_weights
            give(again, self.checkpoint.part("transformer"), self.dtype, self.quantization)
            dict.update(transformer, again)
            if streamed:
                transformer.parts = again.parts
                transformer.parts.keep(self.ways.kept)
            adapt_anew(transformer)

    @contextmanager
    def borrow_upsampler(self, kind: str = "spatial x2") -> Iterator[nn.Module]:
        """An upsampler, from its own file. `kind`: "spatial x2", "spatial x1.5" or "temporal x2"."""
        part = self.upsampler(kind)
        with self._lent(kind, part, self.vae_dtype, lambda: read_upsampler(part, self.vae_dtype)) as network:
            yield network

    def upsampler(self, kind: str = "spatial x2") -> Part:
        """The tensors of an upsampler; raises UserError where there is none of that kind."""
        return self.checkpoint.need(
            f"{kind} upsampler",
            self.checkpoint.upsamplers.get(kind),
            f"put Lightricks' {kind.replace(' ', '-upscaler-')} .safetensors file there.",
        )

    @contextmanager
    def borrow_text_encoder(self, source: TextSource, *, streamed: bool | None = None) -> Iterator[Any]:
        """A text encoder, closed on exit. `streamed`: read layer by layer; None: as the run's ways say."""
        if self.shelf is not None:
            self.shelf.make_room()
        encoder = read_text_encoder(source, self.text_dtype, self.ways.stream_text if streamed is None else streamed)
        try:
            yield encoder
        finally:
            encoder.close()
            mx.clear_cache()


def give_weights(network: nn.Module, part: Part, dtype: mx.Dtype, quantization: Quantization | None = None) -> None:
    """Gives a network its tensors, lazily; raises UserError where they do not fit one to one.

    quantization: of the network's `transformer_blocks`, which are then evaluated one after the other.
    """
    dtype = mx.float32 if part.component.always_float32 else dtype
    what = part.what
    making = _to_make(network, quantization, what)
    names.assign(network, part.load(), what, dtype=None if making else dtype, form=part.form)
    if making is not None:
        quantize.quantize(network.transformer_blocks, making, dtype)
        network.update(tree_map(lambda array: names.cast(array, dtype), network.parameters()))
    network.eval()
    log.debug("%s: %.2f GB", part.component.label, parameter_bytes(network) / 1e9)


def _to_make(network: nn.Module, quantization: Quantization | None, what: str) -> Quantization | None:
    """What is left to be made of a quantization that is asked for; raises UserError where there is another one."""
    there = quantize.used(network)
    if quantization not in (None, there) and there is not None:
        raise UserError(f"The {what} is quantized already ({there}); {quantization} cannot be made of it.")
    return quantization if there is None else None


def stream_weights(network: nn.Module, part: Part, dtype: mx.Dtype, quantization: Quantization | None = None) -> None:
    """Gives a network its tensors, a part's only while it is visited; raises UserError as `give_weights` does."""
    what = part.what
    files = Files(part.tensors, part.prefixes, part.form)
    making = _to_make(network, quantization, what)
    network.parts = Streamed(network, files, what, dtype=dtype, quantization=making)
    network.eval()
    log.debug("%s: %.2f GB, read part by part", part.component.label, part.tensors.nbytes(files.prefixes) / 1e9)


def read_upsampler(part: Part, dtype: mx.Dtype) -> nn.Module:
    """An upsampler with its weights."""
    network = part.build()
    give_weights(network, part, dtype)
    return network


def read_text_encoder(source: TextSource, dtype: mx.Dtype, streamed: bool = False) -> Any:
    """A text encoder with its weights; `streamed`: a layer's only while it is visited."""
    network, tensors = source.network(), source.tensors
    quantize.take_over(network)
    if streamed:
        network.parts = Streamed(network, Files(tensors, ("",), "official"), source.what, dtype=dtype)
    else:
        names.assign(network, source.load(), source.what, dtype=dtype)
    return source.encoder(network)


def parameter_bytes(network: nn.Module) -> int:
    """Bytes that a network's parameters take, evaluated or not."""
    arrays: list[tuple[str, mx.array]] = tree_flatten(network.parameters())  # type: ignore[assignment]
    return sum(array.nbytes for _, array in arrays)


def load(component: str, path: str | Path, dtype: mx.Dtype | None = None) -> Any:
    """One network with its weights, from whatever `--model-repo` takes (for "upsampler" also its own file).

    component: a key of a family's components or "text_encoder"; dtype: of the weights and the computation, float32 if
    left out. The caller keeps the network; `network.clear()` frees it. Axis orders are stated by each class.
    """
    platform.prepare()
    with platform.computing():
        return _load(component, full_name(str(path)), dtype or mx.float32)


def _load(component: str, where: str, dtype: mx.Dtype) -> Any:
    known = [*{key: None for family in FAMILIES.values() for key in family.components}, "text_encoder"]
    if component not in known:
        raise UserError(f"There is no component {component!r}; there are {', '.join(known)}.")
    if locate.is_hub_id(where):
        path = locate.checkpoint(where, DEFAULT.recipes["distilled"], text_encoder=component == "text_encoder")
    else:
        path = locate.existing(where, "path")
    if component == "text_encoder":
        if TextSource.lies_at(DEFAULT, path):
            return read_text_encoder(TextSource.open(DEFAULT, path), dtype)
        return read_text_encoder(locate.text_encoder(None, open_checkpoint(path, "distilled"))[1], dtype)
    if component == "upsampler":
        if path.is_file():
            return read_upsampler(upsampler_part(path), dtype)
        checkpoint = open_checkpoint(path, "distilled")
        return read_upsampler(checkpoint.need("spatial x2 upsampler", checkpoint.upsampler, "give its file."), dtype)
    checkpoint = open_checkpoint(path, "distilled")
    network = checkpoint.build(component)
    give_weights(network, checkpoint.part(component), dtype)
    return network
