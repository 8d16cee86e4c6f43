"""Pictures of latents while they are made: the map of a checkpoint, fitted once to its own decoder and kept.

Fitting takes films that are made up through the encoder and back through the decoder, one after the other, at a moment
when no other network is in memory. Both are as large then as when a clip is decoded, and what they work on is smaller,
so that no run's peak is higher for it. Knows networks by what they are lent as.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.lending.finite import Origin
from mlx_video.media.files import replacing
from mlx_video.media.image import enlarged
from mlx_video.reading import is_there
from mlx_video.results import latent_map
from mlx_video.results.latent_map import REDUCED, LatentMap
from mlx_video.results.made_up import film
from mlx_video.types import Listener, Phase, Progress, RunError, Tree, UserError, Watch
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, write

if TYPE_CHECKING:
    from mlx_video.lending.loader import Loader
    from mlx_video.results.look import Look, Sound

log = logging.getLogger(__name__)

FILMS, FRAMES, LENGTH = 20, 9, 128
"""Films that the map is fitted to, frames of each, and pixels a side: 640 cells for 129 unknowns, in 17 CPU seconds for
the demo. The last preview of five clips of the demo then correlates with what is decoded by 0.85 to 0.97."""
TOLD = (
    "--skip-vae: the video is a linear map of the latents, a quarter as sharp a side and without sound; nothing is "
    "decoded."
)
FITTED = (
    "Previews are a linear map of the latents, fitted to this checkpoint's decoder: it explains {:.0%} of pictures."
)
FORMAT = "mlx_video latent map 1"
COMPONENTS = ("video_encoder", "video_decoder")


def check(loader: Loader) -> None:
    """Raises UserError where a checkpoint lacks what its map is fitted to; reads headers alone."""
    for component in COMPONENTS:
        loader.check(component)


def map_of(loader: Loader, watch: Watch) -> LatentMap:
    """The map of the loader's checkpoint, kept or fitted now. A cache that cannot be written costs only time."""
    folder = platform.cache_folder("previews")
    path = None if folder is None else folder / f"{_mark(loader)}.safetensors"
    found = None if path is None else _kept(path)
    if found is None:
        found = latent_map.fit(_films(loader, watch.report))
        watch.say(FITTED.format(found.r2))
        if path is not None:
            _keep(path, found)
    return found


def _films(loader: Loader, report: Listener) -> Iterator[latent_map.Film]:
    """Latents and what the decoder makes of them; all are encoded first, so that one network is there at a time."""
    steps = platform.Steps(Phase.PREVIEW, 2 * FILMS, report)
    costs, config, latents = loader.checkpoint.family.costs(), loader.checkpoint.config, []
    with loader.borrow("video_encoder") as encoder:
        for number in range(FILMS):
            pixels = mx.array(film(number, FRAMES, LENGTH))[None].astype(loader.vae_dtype)
            latents.append(encoder(pixels))
            Origin.of(loader, "video_encoder").check("encoding a film for the preview", latents[-1])
            steps.tell(steps.done + 1)
    with loader.borrow("video_decoder") as decoder:
        for latent in latents:
            grid, size = latent.shape[1:4], loader.vae_dtype.size
            plan = costs.tiles(config, "none", grid, 1, stream=False, size=size)
            pixels = mx.concatenate(list(decoder.decode_frames(latent, plan))).astype(mx.float32)
            Origin.of(loader, "video_decoder").check("decoding a film for the preview", pixels)
            steps.tell(steps.done + 1)
            channels_first = np.moveaxis(np.array(latent[0].astype(mx.float32)), -1, 0)
            yield channels_first, np.clip(np.array(pixels), -1, 1)


# ---------------------------------------------------------------------------------------------------- kept maps


def _mark(loader: Loader) -> str:
    """What tells one autoencoder from another: names and shapes of its tensors, and those of them that are vectors."""
    digest = hashlib.blake2b(repr((FORMAT, FILMS, FRAMES, LENGTH)).encode(), digest_size=16)
    for component in COMPONENTS:
        part = loader.checkpoint.part(component)
        for name, array in sorted(part.load().items()):
            digest.update(f"{component} {name} {array.shape}".encode())
            if array.ndim == 1:
                digest.update(np.array(array.astype(mx.float32)).tobytes())
    return digest.hexdigest()


def _keep(path: Path, found: LatentMap) -> None:
    array = mx.array(found.weights)
    metadata = {"format": FORMAT, "r2": repr(found.r2), "sum": _sum(found.weights)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary, {"weights": Pending(array, mx.float32)}, metadata, lambda count: None)
    except (OSError, UserError, RunError) as error:
        log.info("The preview's map was not kept for the next run: %s", error)


def _kept(path: Path) -> LatentMap | None:
    """None where there is none, or a damaged one, which is then made anew."""
    if not is_there(path):
        return None
    try:
        tensors = Tensors([path])
        weights = np.array(tensors.load()["weights"])
        said = {name: str(tensors.metadata.get(name)) for name in ("format", "r2", "sum")}
        if said["format"] != FORMAT or said["sum"] != _sum(weights) or weights.shape[1:] != (latent_map.VALUES,):
            raise ValueError("its numbers are not those that were written")
        return LatentMap(weights, float(said["r2"]))
    except (UserError, KeyError, ValueError) as fault:
        log.info("The preview's map is made anew: %s", fault)
        return None


def _sum(weights: np.ndarray) -> str:
    # Never to be taken for a number.
    return f"blake2b {hashlib.blake2b(np.ascontiguousarray(weights).tobytes(), digest_size=16).hexdigest()}"


# ---------------------------------------------------------------------------------------------------- its uses


def pictured(watch: Watch, found: LatentMap) -> Watch:
    """The same watch, whose `picture` is shown every prediction as pictures."""
    picture: Callable[[Progress, np.ndarray], None] | None = watch.picture
    if picture is None:
        return watch
    before = watch.preview

    def preview(progress: Progress, latents: Tree) -> None:
        if before is not None:
            before(progress, latents)
        picture(progress, found.pictures(np.array(latents["video"][0])))

    return replace(watch, preview=preview)


@dataclass(frozen=True)
class MapDecoder:
    """Shows latents through the map, enlarged to the clip's size: in seconds, without a decoder and without sound."""

    map: LatentMap

    def frames(self, latent: Any, look: Look, report: Listener) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 of a normalised latent (1, C, F, H, W)."""
        total = look.shape.frames
        for done, small in enumerate(self.map.frames(np.array(latent[0])), 1):
            report(Progress(Phase.DECODE, done, total))
            yield enlarged(small, small.shape[0] * REDUCED, small.shape[1] * REDUCED)
            if done == total:
                return

    def sound(self, latent: Any, report: Listener) -> Sound:
        """There is none: a clip that is shown so is silent."""
        raise ValueError("a map of pictures makes no sound")
