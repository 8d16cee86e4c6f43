"""Decodes and encodes whole clips: frames come out as they are made, and memory does not grow with the clip's length.

Nothing here depends on what a decoder computes: it needs `decoder.scale` and `decoder.pieces(latent, size)`, which
gives pixels in order. Blending happens on the host, where sums are added to in place. Knows no files and no 8 bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, product
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.blocks import Scale
from mlx_video.models.ltx_2.video_vae.tiling import TilePart, Tiling, decode_parts, encode_parts
from mlx_video.types import UserError

if TYPE_CHECKING:
    from mlx_video.models.ltx_2.video_vae.encoder import VideoEncoder


class Decoder(Protocol):
    """What decoding needs of a decoder."""

    scale: Scale

    def pieces(self, latent: mx.array, size: int | None = None) -> Iterator[mx.array]:
        """Pixels (B, frames, height, width, 3) of a latent (B, F, H, W, C), in order."""
        ...


def decode_frames(decoder: Decoder, latent: mx.array, tiling: Tiling) -> Iterator[mx.array]:
    """Chunks (frames, height, width, 3) of a normalised latent (1, F, H, W, C), in order, about [-1, 1], not clipped.

    Without tiles the numbers are those of `decoder(latent)`. Tiles in time give those of the reference's
    `tiled_decode`, seams included; without them nothing differs but what a tile's border lacks of its neighbours.
    Raises ValueError for more than one clip, UserError for tiles that cannot be used.
    """
    if latent.shape[0] != 1:
        raise ValueError(f"decode_frames takes one clip at a time, not {latent.shape[0]}")
    return map(itemgetter(0), _blend(decoder, latent, tiling) if tiling.tiled else decoder.pieces(latent, tiling.piece))


def _blend(decoder: Decoder, latent: mx.array, tiling: Tiling) -> Iterator[mx.array]:
    times, rows, columns = decode_parts(tiling, latent.shape[1:4], decoder.scale)
    if len(times) == 1:
        yield from _side_by_side(decoder, latent, rows, columns, tiling.piece)
        return
    size = (latent.shape[0], rows[-1].pixels.stop, columns[-1].pixels.stop, 3)
    tail = np.zeros((size[0], 0, *size[1:]), np.float32)
    for i, time in enumerate(times):
        # What earlier tiles in time have left over this one, and from there on nothing yet.
        total = np.zeros((size[0], len(time.weights), *size[1:]), np.float32)
        total[:, : tail.shape[1]] = tail
        for row, column in product(rows, columns):
            space, weights, at = mx.array(_plane(row, column)), mx.array(time.weights), 0
            for pixels in decoder.pieces(latent[:, time.latents, row.latents, column.latents], tiling.piece):
                count = pixels.shape[1]
                pixels = pixels.astype(mx.float32) * weights[at : at + count, None, None, None] * space
                total[:, at : at + count, row.pixels, column.pixels] += np.array(pixels)
                at += count
        done = times[i + 1].pixels.start - time.pixels.start if i + 1 < len(times) else total.shape[1]
        tail = total[:, done:].copy()
        # Only the tail stays while the caller has the rest.
        ready = [mx.array(total[:, :done])]
        del total
        yield ready.pop()


def _side_by_side(
    decoder: Decoder, latent: mx.array, rows: list[TilePart], columns: list[TilePart], piece: int | None
) -> Iterator[mx.array]:
    """All tiles of a picture go through time together, each in its own stream, so that time has no seams."""
    tiles = [
        (_Tile(decoder.pieces(latent[:, :, row.latents, column.latents], piece)), row, column)
        for row, column in product(rows, columns)
    ]
    while count := tiles[0][0].ready():
        total = np.zeros((latent.shape[0], count, rows[-1].pixels.stop, columns[-1].pixels.stop, 3), np.float32)
        for tile, row, column in tiles:
            space, at = _plane(row, column), 0
            for pixels in tile.take(count):
                total[:, at : at + pixels.shape[1], row.pixels, column.pixels] += pixels * space
                at += pixels.shape[1]
        result = [mx.array(total)]
        del total
        yield result.pop()


def _plane(row: TilePart, column: TilePart) -> np.ndarray:
    """How much each place of a tile counts, (height, width, 1)."""
    weights: np.ndarray = row.weights[:, None, None] * column.weights[None, :, None]
    return weights


class _Tile:
    """One tile's frames as they come: tiles of other sizes come in other pieces."""

    def __init__(self, pieces: Iterator[mx.array]):
        self._pieces, self._left = pieces, deque[np.ndarray]()

    def ready(self) -> int:
        """How many frames there are, once there are any; 0 at the end."""
        if not self._left and (piece := next(self._pieces, None)) is not None:
            self._left.append(np.array(piece.astype(mx.float32)))
        return self._left[0].shape[1] if self._left else 0

    def take(self, count: int) -> Iterator[np.ndarray]:
        """The next `count` frames, in one or more arrays (B, frames, height, width, 3)."""
        while count and self.ready():
            frames = self._left.popleft()
            if frames.shape[1] > count:
                self._left.appendleft(frames[:, count:])
                frames = frames[:, :count]
            count -= frames.shape[1]
            yield frames


# ---------------------------------------------------------------------------------------------------- encoding


def encode_frames(
    encoder: VideoEncoder,
    pixels: mx.array | np.ndarray | Iterable[np.ndarray],
    tiling: Tiling,
    count: int | None = None,
) -> mx.array:
    """Pixels in [-1, 1] -> normalised latent (B, F, H, W, C), a few frames of them held at a time.

    pixels: (B, frames, height, width, 3), or frames (height, width, 3) as they come, of which the first `count` are
    taken (None: all; needed where time is tiled). Frames beyond the last 1 + 8k are left out. Without tiles the numbers
    are those of `encoder(pixels)`; with tiles those of the reference's `tiled_encode` (1.2.0), with overlaps raised to
    what it asks for. Raises UserError for tiles or sizes that cannot be used, or where fewer frames come than `count`.
    """
    reel = Reel(pixels, count)
    if reel.count is None and tiling.frames:
        raise ValueError("tiles in time need the number of frames")
    encoder.check(reel.height, reel.width)
    scale = encoder.scale
    length = 1 if reel.count is None else (reel.count - 1) // scale.time + 1
    grid = (length, reel.height // scale.height, reel.width // scale.width)
    times, rows, columns = encode_parts(tiling, grid, scale)
    piece = tiling.piece if encoder.takes_pieces else None
    encoded: list[mx.array] = []
    for i, time in enumerate(times):
        stop = None if reel.count is None else time.pixels.stop
        keep = times[i + 1].pixels.start if i + 1 < len(times) else stop
        spans = _spans(time.pixels.start, stop, scale.time, piece)
        encoded.append(_encode_part(encoder, (reel.take(*span, keep) for span in spans), rows, columns))
    if len(times) == 1:
        return encoded[0]
    total = np.zeros((encoded[0].shape[0], *grid, encoded[0].shape[-1]), np.float32)
    for time, latent in zip(times, encoded, strict=True):
        total[:, time.latents] += np.array(latent.astype(mx.float32)) * time.weights[:, None, None, None]
    return mx.array(total).astype(encoded[0].dtype)


def _spans(start: int, stop: int | None, step: int, piece: int | None) -> Iterator[tuple[int, int | None]]:
    # Whole latent frames, `piece` of them at a time; the first of all stands for one pixel frame.
    if piece is None:
        yield start, stop
        return
    end = start + 1 + (piece - 1) * step
    while stop is None or start < stop:
        yield start, end if stop is None else min(end, stop)
        start, end = end, end + piece * step


def _encode_part(
    encoder: VideoEncoder, pieces: Iterator[mx.array], rows: list[TilePart], columns: list[TilePart]
) -> mx.array:
    tiles = list(product(rows, columns))
    streams: list[Stream] = []
    encoded: list[mx.array] = []
    for pixels in pieces:
        # A clip that ends within a latent frame loses the frames of it.
        first = 1 if not encoded else 0
        usable = first + (pixels.shape[1] - first) // encoder.scale.time * encoder.scale.time
        if usable <= 0:
            break
        streams = streams or [encoder.in_pieces() if encoder.takes_pieces else Stream() for _ in tiles]
        parts = [
            encoder.encode(pixels[:, :usable, row.pixels, column.pixels], stream)
            for (row, column), stream in zip(tiles, streams, strict=True)
        ]
        encoded.append(parts[0] if len(parts) == 1 else _joined(parts, tiles))
    return mx.concatenate(encoded, axis=1)


def _joined(parts: list[mx.array], tiles: list[tuple[TilePart, TilePart]]) -> mx.array:
    row, column = tiles[-1]
    batch, frames, _, _, channels = parts[0].shape
    total = np.zeros((batch, frames, row.latents.stop, column.latents.stop, channels), np.float32)
    for part, (row, column) in zip(parts, tiles, strict=True):
        total[:, :, row.latents, column.latents] += np.array(part.astype(mx.float32)) * _plane(row, column)
    return mx.array(total).astype(parts[0].dtype)


class Reel:
    """The frames of a clip, which are there already or come one by one and are held only while they are needed."""

    def __init__(self, pixels: mx.array | np.ndarray | Iterable[np.ndarray], count: int | None):
        """`pixels` as `encode_frames` takes them; an iterable is asked for its first frame at once, for the size."""
        self._array: mx.array | np.ndarray | None = None
        self._coming: Iterator[np.ndarray] = iter(())
        self._held: deque[np.ndarray] = deque()
        self._start = 0
        self.count = count
        if isinstance(pixels, mx.array | np.ndarray):
            self._array = pixels
            sizes: tuple[int, ...] = pixels.shape[1:4]
            self.count = min(count or sizes[0], sizes[0])
        else:
            self._coming = iter(pixels)
            self._held.extend(islice(self._coming, 1))
            if not self._held:
                raise UserError("The clip has no frames; at least one is needed.")
            sizes = (len(self._held), *self._held[0].shape)
        self.height, self.width = sizes[1:3]

    def take(self, start: int, stop: int | None, keep: int | None) -> mx.array:
        """Frames [start, stop) as (B, frames, height, width, 3), fewer where the clip ends; `keep`: the first that is
        asked for again (None: none).
        """
        if self._array is not None:
            return mx.array(self._array[:, start:stop])
        offset = start - self._start
        wanted = None if stop is None else max(0, stop - self._start - len(self._held))
        self._held.extend(islice(self._coming, wanted))
        frames = list(islice(self._held, offset, None if stop is None else offset + stop - start))
        if self.count is not None and stop is not None and len(frames) < stop - start:
            raise UserError(f"The clip ended after {start + len(frames)} frames; {self.count} were announced.")
        done = start + len(frames)
        while self._held and self._start < (done if keep is None else min(done, keep)):
            self._held.popleft()
            self._start += 1
        return mx.array(np.stack(frames))[None] if frames else mx.zeros((1, 0, self.height, self.width, 3))
