"""Tiles of the video autoencoder: where they lie, how they are blended, which are chosen, what is refused."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import nullcontext

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.checkpoints import demo
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.lending.loader import Loader
from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.video_vae import (
    MODES,
    Span,
    Tiling,
    decode_frames,
    encode_frames,
    peak_bytes,
    plan_tiles,
)
from mlx_video.models.ltx_2.video_vae.blocks import Scale
from mlx_video.models.ltx_2.video_vae.tiling import PRESETS, _coupled, decode_parts, encode_parts
from mlx_video.types import UserError
from tests.models import video_vae_cases as cases
from tests.models.test_video_vae import error, generations, make
from tests.support import macs, peaks

SCALE = Scale(8, 32, 32)
RECORDED = np.load(cases.RECORDED)


def tiling(spans: cases.SPANS, piece: int | None = 1) -> Tiling:
    return Tiling(*(Span(*span) if span[0] else None for span in spans), piece=piece)


# ------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize(
    ("number", "direction"),
    [
        (number, direction)
        for number in range(len(cases.GEOMETRY))
        for direction in ("decode", "encode")
        # The reference refuses to encode with small overlaps.
        if f"geometry/{number}/{direction}/0" in RECORDED
    ],
)
def test_tiles_lie_where_the_reference_puts_them(number, direction):
    grid, spans = cases.GEOMETRY[number]
    for axis, parts in enumerate((decode_parts if direction == "decode" else encode_parts)(tiling(spans), grid, SCALE)):
        key = f"geometry/{number}/{direction}/{axis}"
        places = [(p.latents.start, p.latents.stop, p.pixels.start, p.pixels.stop) for p in parts]
        assert places == [tuple(row) for row in RECORDED[key]]
        weights = _divided(
            RECORDED[f"{key}/weights"], [p.pixels if direction == "decode" else p.latents for p in parts]
        )
        assert np.abs(np.concatenate([p.weights for p in parts]) - weights).max() < 1e-6


def _divided(weights: np.ndarray, places: list[slice]) -> np.ndarray:
    """The reference's weights divided by their sum, as it divides the blended pixels."""
    lengths = [place.stop - place.start for place in places]
    parts = np.split(weights.astype(np.float64), np.cumsum(lengths)[:-1])
    total = np.zeros(places[-1].stop)
    for place, part in zip(places, parts, strict=True):
        total[place] += part
    return np.concatenate([part / total[place] for place, part in zip(places, parts, strict=True)])


@pytest.mark.parametrize("number", range(len(cases.SIZES)))
def test_the_shorter_side_keeps_the_aspect_ratio_as_in_the_reference(number):
    height, width = cases.SIZES[number]
    plan = _coupled(PRESETS["conservative"], (1, height // 32, width // 32))
    assert (plan.height.size, plan.width.size) == tuple(RECORDED["sides"][number])


# ------------------------------------------------------------------------------------------ blending


@pytest.mark.quick("*-2.3")
@generations
@pytest.mark.parametrize("piece", [1, None])
@pytest.mark.parametrize("case", cases.TILED_DECODE)
def test_decodes_tiles_as_recorded(case, piece, generation):
    grid, spans = cases.TILED_DECODE[case]
    decoder = make("decoder", generation)
    chunks = list(decode_frames(decoder, mx.array(cases.latent(grid)), tiling(spans, piece)))
    key = f"{generation}/tiled_decode/{case}"
    counts = [chunk.shape[0] for chunk in chunks]
    assert (counts if spans[0][0] else [sum(counts)]) == list(RECORDED[f"{key}/frames"])
    whole = mx.concatenate(chunks).reshape(-1)
    assert error(whole[:: cases.STEP["tiled_decode"]], RECORDED[key]) < 5e-6


@pytest.mark.quick("*-2.3")
@generations
@pytest.mark.parametrize("piece", [1, None])
@pytest.mark.parametrize("case", cases.TILED_ENCODE)
def test_encodes_tiles_as_recorded(case, piece, generation):
    size, spans = cases.TILED_ENCODE[case]
    encoder, pixels = make("encoder", generation), cases.pixels(size)
    wanted = RECORDED[f"{generation}/tiled_encode/{case}"]
    for given in (pixels, iter(pixels[0])):
        latent = encode_frames(encoder, given, tiling(spans, piece), count=size[0])
        assert error(latent.reshape(-1)[:: cases.STEP["tiled_encode"]], wanted) < 5e-6


def test_tiles_larger_than_the_clip_change_nothing():
    decoder, latent = make("decoder", "2.3"), mx.array(cases.latent((2, 2, 2)))
    whole = decoder(latent)[0]
    (chunk,) = decode_frames(decoder, latent, Tiling(Span(64, 24), Span(512, 64), Span(512, 64)))
    assert error(chunk, whole) < 3e-6
    assert error(mx.concatenate(list(decode_frames(decoder, latent, Tiling(piece=1)))), whole) < 3e-6


@pytest.mark.parametrize("frames", [1, 9, 30])
@pytest.mark.parametrize("known", [True, False])
def test_frames_that_come_one_by_one_encode_as_the_whole(frames, known):
    encoder, pixels = make("encoder", "2.3"), cases.pixels((frames, 32, 32))
    for given, count in ((pixels, None), (mx.array(pixels), None), (iter(pixels[0]), frames if known else None)):
        assert error(encode_frames(encoder, given, Tiling(piece=2), count=count), encoder(mx.array(pixels))) < 3e-6


def test_encoding_holds_few_frames_at_a_time():
    encoder, held, most = make("encoder", "2.3"), [], 0

    class Frame(np.ndarray):
        def __del__(self):
            if self.base is None:
                held.pop()

    def frames():
        nonlocal most
        for _ in range(81):
            held.append(1)
            most = max(most, len(held))
            yield np.ndarray.__new__(Frame, (32, 32, 3), np.float32)

    encode_frames(encoder, frames(), tiling(((32, 16), (0, 0), (0, 0))), count=81)
    gc.collect()
    assert most <= 34


def test_blending_holds_two_tiles_in_time_at_most():
    class Plain:
        scale = SCALE

        def pieces(self, latent, size):
            for start in range(0, 8 * latent.shape[1] - 7, 8):
                yield mx.zeros(
                    (1, min(8, 8 * latent.shape[1] - 7 - start), 32 * latent.shape[2], 32 * latent.shape[3], 3)
                )

    def peak(frames: int) -> int:
        tracemalloc.start()
        for chunk in decode_frames(Plain(), mx.zeros((1, frames, 4, 4, 1)), Tiling(Span(32, 8), piece=1)):
            mx.eval(chunk)
            del chunk
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(33) < 1.1 * peak(17)


# ------------------------------------------------------------------------------------------ choice


@pytest.fixture(params=["GPU", "CPU"])
def machine(request):
    """Both kinds of machines, whose peaks differ."""
    with macs.mac(64) if request.param == "GPU" else nullcontext():
        yield request.param


@pytest.mark.usefixtures("machine")
def test_auto_cuts_nothing_that_fits():
    grid = (16, 16, 24)
    assert plan_tiles("auto", grid) == Tiling(piece=4)
    one = peak_bytes(Tiling(piece=1), grid)
    assert plan_tiles("auto", grid, memory_limit=one) == Tiling(piece=1)
    assert plan_tiles("auto", grid, memory_limit=one - 1).tiled


@pytest.mark.usefixtures("machine")
def test_more_latent_frames_at_a_time_take_a_quarter_of_the_memory_at_most():
    grid = (16, 16, 24)
    four, two = (4 * peak_bytes(Tiling(piece=piece), grid) for piece in (4, 2))
    assert plan_tiles("auto", grid, memory_limit=four) == Tiling(piece=4)
    assert plan_tiles("auto", grid, memory_limit=four - 1) == Tiling(piece=2)
    assert plan_tiles("none", grid, memory_limit=two) == Tiling(piece=2)
    assert plan_tiles("none", grid, memory_limit=two - 1) == Tiling(piece=1)
    assert plan_tiles("auto", grid, memory_limit=four, stream=True) == Tiling(piece=1)


def test_auto_cuts_as_the_reference_does_then_smaller():
    grid = (31, 34, 60)
    with macs.mac(64):
        assert plan_tiles("auto", grid, memory_limit=12 << 30) == Tiling(piece=1)
        tiles = plan_tiles("auto", grid, memory_limit=10 << 30)
        assert tiles == Tiling(None, Span(448, 64), Span(768, 64), piece=1)
        tiles = plan_tiles("auto", grid, memory_limit=6 << 30)
        assert tiles == Tiling(None, Span(288, 64), Span(512, 64), piece=1)
    # The smallest is tried even where it does not fit.
    assert plan_tiles("auto", grid, memory_limit=1) == Tiling(None, Span(160, 64), Span(256, 64), piece=1)


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="the CPU backend's peaks")
def test_auto_cuts_nothing_on_the_cpu_that_was_measured_to_fit():
    """The decoder that comes with the package takes 45 MiB for this; 375 were said, so that pictures were cut."""
    checkpoint, grid = open_checkpoint(demo.folder(), "distilled"), (3, 8, 8)
    channels = VideoVAEConfig.read(checkpoint.config).decoder_base_channels
    plan = plan_tiles("auto", grid, memory_limit=60 << 20, channels=channels)
    assert plan == Tiling(piece=1)
    latent = mx.random.normal((1, *grid, 128))
    with Loader(checkpoint, mx.float32).borrow("video_decoder") as decoder:
        mx.eval(latent, decoder.parameters())
        with peaks.measured() as memory:
            for chunk in decode_frames(decoder, latent, plan):
                mx.eval(chunk)
            assert memory.peak < 60 << 20


@pytest.mark.usefixtures("machine")
def test_the_length_of_a_clip_does_not_change_what_fits():
    limit = 4 * peak_bytes(Tiling(piece=2), (5, 16, 24))
    assert {plan_tiles("auto", (f, 16, 24), memory_limit=limit) for f in (5, 17, 500)} == {Tiling(piece=2)}


@pytest.mark.parametrize(("mode", "size"), [("default", 512), ("aggressive", 256), ("conservative", 768)])
def test_presets(mode, size):
    tiles = plan_tiles(mode, (40, 32, 32))
    assert (tiles.frames, tiles.height.size, tiles.width.size) == (None, size, size)
    assert tiles.height.overlap == tiles.width.overlap == 64
    assert plan_tiles(mode, (40, size // 32, 4)) == Tiling()  # one tile is the whole picture


@generations
def test_no_tile_begins_or_ends_in_time(generation):
    decoder, spans = make("decoder", generation), Tiling(None, Span(96, 32), piece=1)
    latent = mx.array(cases.latent((5, 5, 2), seed=3))
    chunks = list(decode_frames(decoder, latent, spans))
    assert len(chunks) > 1
    _, rows, columns = decode_parts(spans, (5, 5, 2), SCALE)
    expected = np.zeros((33, 160, 64, 3))
    for row in rows:  # each tile decoded from its first frame to its last, at once
        expected[:, row.pixels] += np.array(decoder(latent[:, :, row.latents]))[0] * row.weights[:, None, None]
    assert len(rows) == 2
    assert len(columns) == 1
    assert error(np.concatenate([np.array(chunk) for chunk in chunks]), expected) < 1e-5


def test_tiles_of_other_sizes_come_in_other_pieces():
    class Uneven:
        scale = SCALE

        def pieces(self, latent, size):
            step = 3 if latent.shape[2] > 2 else 5  # more frames at a time for smaller tiles
            count = 8 * latent.shape[1] - 7
            pixels = mx.repeat(mx.repeat(mx.repeat(latent[..., :3], 8, 1), 32, 2), 32, 3)[:, :count]
            for start in range(0, count, step):
                yield pixels[:, start : start + step]

    latent = mx.broadcast_to(mx.arange(4, dtype=mx.float32)[None, :, None, None, None], (1, 4, 4, 4, 3))
    chunks = list(decode_frames(Uneven(), latent, Tiling(None, Span(96, 32), piece=1)))
    frames = np.concatenate([np.array(chunk) for chunk in chunks])
    np.testing.assert_allclose(
        frames, np.repeat(np.arange(4), 8)[:25, None, None, None] * np.ones((25, 128, 128, 3)), atol=1e-6
    )


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=f"'fast'; there are {', '.join(MODES)}"):
        plan_tiles("fast", (1, 1, 1))


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        (
            ((20, 8), (0, 0), (0, 0)),
            "frames size must be a multiple of 8 frames from 16 on, not 20; nearest are 16 and 24",
        ),
        (((8, 0), (0, 0), (0, 0)), "not 8; nearest are 16 and 24"),
        (
            ((0, 0), (96, 16), (0, 0)),
            "height overlap must be a multiple of 32 pixels from 0 on, not 16; nearest are 0 and 32",
        ),
        (((0, 0), (0, 0), (64, 64)), "Tiles of 64 pixels cannot overlap by 64; the most is 32"),
    ],
)
def test_tiles_that_cannot_be_used_are_refused(spans, said):
    with pytest.raises(UserError, match=said):
        decode_parts(tiling(spans), (2, 2, 2), SCALE)


def test_encoding_raises_overlaps_to_what_the_encoder_needs():
    few, enough = (tiling(((40, frames), (128, pixels), (128, pixels))) for frames, pixels in ((8, 32), (16, 64)))
    for ours, wanted in zip(encode_parts(few, (9, 8, 9), SCALE), encode_parts(enough, (9, 8, 9), SCALE), strict=True):
        assert [p.latents for p in ours] == [p.latents for p in wanted]


def test_bad_clips_are_refused():
    encoder, frames = make("encoder", "2.3"), cases.pixels((9, 32, 32))[0]
    with pytest.raises(UserError, match="ended after 9 frames; 17 were announced"):
        encode_frames(encoder, iter(frames), Tiling(), count=17)
    with pytest.raises(UserError, match="no frames"):
        encode_frames(encoder, iter(()), Tiling())
    with pytest.raises(UserError, match="multiples of 32 pixels from 32 on, not 40; nearest are 32 and 64"):
        encode_frames(encoder, np.zeros((1, 1, 32, 40, 3), np.float32), Tiling())
    with pytest.raises(ValueError, match="number of frames"):
        encode_frames(encoder, iter(frames), Tiling(Span(16, 0)))
    with pytest.raises(ValueError, match="one clip at a time"):
        list(decode_frames(make("decoder", "2.3"), mx.zeros((2, 1, 2, 2, 128)), Tiling()))
