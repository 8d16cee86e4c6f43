"""Upscaling from a source to latents and frames: sizes, padding, pieces, memory, and what refining starts from."""

from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, UserError
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.layouts.neighbours import upsampler_kind
from mlx_video.diffusion.noise import given, seeded
from mlx_video.diffusion.schedules import REFINE
from mlx_video.diffusion.tokens import unpatchify, video_positions
from mlx_video.jobs import upscale as upscaling
from mlx_video.jobs.convert import convert
from mlx_video.jobs.settings import resolve
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.jobs.texts import prompts as text
from mlx_video.jobs.upscale import Still, Upscale, Upscaling, encode, read_source
from mlx_video.lending.loader import Loader
from mlx_video.models.ltx_2 import upsampler
from mlx_video.models.ltx_2.recipes import REFINING
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.request import Request
from mlx_video.types import Context, VideoShape, Watch
from tests.support import films, foreign, real_keys, small
from tests.support.cases import GENERATIONS, error
from tests.support.stages import refine

LIMIT = 2e-5
WINDOW = REFINING["distilled"].stages[0].window


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ten frames of an odd size, with sound."""
    return films.write(tmp_path_factory.mktemp("film") / "film.mp4", 10, 50, 70, Fraction(30000, 1001))


@contextmanager
def pipeline(folder):
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        yield pipe


def loader_of(folder):
    return Loader(open_checkpoint(folder, "distilled"), mx.float32)


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.quick("2.3-*")
@pytest.mark.parametrize(
    ("options", "size", "count", "fps", "grid"),
    [
        ({}, (100, 140), 10, Fraction(30000, 1001), (3, 4, 6)),
        ({"scale": 1.5}, (74, 104), 10, Fraction(30000, 1001), (3, 3, 5)),
        ({"scale": 1, "fps_scale": 2}, (50, 70), 19, Fraction(60000, 1001), (5, 2, 3)),
        ({"fps_scale": 2}, (100, 140), 19, Fraction(60000, 1001), (5, 4, 6)),
    ],
)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_sizes(upscale_folder, film, generation, options, size, count, fps, grid):
    with pipeline(upscale_folder(generation)) as pipe:
        result = pipe.upscale(film, **options)
    assert result.latents["video"].shape == (1, 128, *grid)
    assert (result.shape.height, result.shape.width, len(result), result.fps) == (*size, count, fps)
    frames = list(result)
    assert [frame.shape for frame in frames] == [(*size, 3)] * count
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert not np.array_equal(frames[0], frames[-1])


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 40), (31, 65)])
def test_pictures_of_any_size(upscale_folder, generation, height, width):
    source = Still(None, films.frames(1, height, width)[0])
    for scale in (1.5, 2.0):
        job = Upscale(Upscaling("", scale))
        job.source, job.loader = source, loader_of(upscale_folder(generation))
        (frame,) = job.run(Watch())
        assert frame.shape == (int(height * scale), int(width * scale), 3)


def test_padding_repeats_the_last_frame_and_the_edges(upscale_folder, film):
    asked = Upscaling(str(film))
    source = read_source(asked)
    loader = loader_of(upscale_folder("2.3"))
    latent = encode(asked, source, loader, lambda progress: None)
    frames = np.stack(list(source.frames()) + [list(source.frames())[-1]] * 7)
    frames = np.pad(frames, ((0, 0), (0, 14), (0, 26), (0, 0)), mode="edge")
    with loader.borrow("video_encoder") as encoder:
        whole = encoder(mx.array(frames[None].astype(np.float32) / 127.5 - 1))
        mx.eval(whole)
    assert latent.shape == (1, 3, 2, 3, 128)
    assert error(latent, whole) < LIMIT


def test_a_small_upsampler_that_is_not_there_is_named(small_folder, film):
    with pipeline(small_folder("2.3")) as pipe:
        for options, name in (({"scale": 1.5}, "spatial x1.5"), ({"fps_scale": 2}, "temporal x2")):
            with pytest.raises(UserError, match=rf"No {name} upsampler was found beside .*ltx-2\.3-22b-distilled"):
                pipe.upscale(film, **options)


@pytest.mark.slow
def test_a_converted_folder_and_a_pack_have_all_upsamplers(upscale_folder, film, tmp_path):
    official = upscale_folder("2.3")
    convert(open_checkpoint(official, "distilled"), tmp_path / "converted")
    pack = foreign.forge(tmp_path / "distilled", official, "2.3")
    for kind in small.OTHER_UPSAMPLERS:
        name = kind.replace(" x", "_upscaler_x").replace(".", "_") + "_v1_0"
        tensors = mx.load(str(official / f"ltx-2.3-{kind.replace(' ', '-upscaler-')}-1.0.safetensors"))
        turned = {key: foreign.channels_last(array) for key, array in tensors.items()}
        foreign.save(pack / f"{name}.safetensors", foreign.prefixed(f"{name}.", turned))

    def latents(folder, options):
        with pipeline(folder) as pipe:
            return pipe.upscale(film, **options).latents["video"]

    for options in ({"scale": 1.5}, {"scale": 1, "fps_scale": 2}):
        expected = latents(official, options)
        assert mx.array_equal(latents(tmp_path / "converted", options), expected)
        assert mx.array_equal(latents(pack, options), expected)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"spatial_upsample": True}, "spatial x2"),
        ({"spatial_upsample": True, "rational_resampler": True, "spatial_scale": 1.5}, "spatial x1.5"),
        ({"spatial_upsample": True, "spatial_scale": 1.5}, "spatial x2"),
        ({"spatial_upsample": False, "temporal_upsample": True}, "temporal x2"),
        ({"temporal_upsample": True}, "spatial and temporal x2"),
    ],
)
def test_an_upsampler_is_known_by_what_its_config_makes_of_a_latent(settings, kind):
    assert upsampler_kind(settings) == kind


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_published_upsamplers_are_known(generation):
    for name, (settings, _) in real_keys.upsamplers(generation).items():
        assert upsampler_kind(settings) == name.replace("_", " ", 1).replace("_", ".")


def test_a_film_that_changes_its_size_is_refused(upscale_folder):
    class Changing(Still):
        def frames(self):
            yield from (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 40, 3), np.uint8))

    source = Changing("a.mkv", np.zeros((32, 32, 3), np.uint8), count=2)
    with pytest.raises(UserError, match=r"a\.mkv.*32x32.*frame 1.*40x32"):
        encode(Upscaling("a.mkv"), source, loader_of(upscale_folder("2")), lambda progress: None)


# ------------------------------------------------------------------------------------------------ long films


def test_pieces_give_the_numbers_of_one_pass(upscale_folder, film, monkeypatch):
    with pipeline(upscale_folder("2")) as pipe:
        whole = pipe.upscale(film, fps_scale=2).latents["video"]
        monkeypatch.setattr(upsampler, "WHOLE_BYTES", 1)
        seen = []
        pieces = pipe.upscale(film, fps_scale=2, on_step=lambda p: seen.append(p)).latents["video"]
    assert error(pieces, whole) < LIMIT
    assert [(p.done, p.total) for p in seen if p.phase == "upscale"] == [(walk, 6) for walk in range(7)]


def _decoding_peak(result):
    peaks = []
    for _ in result.frames(lambda p: peaks.append(p.peak or 0)):
        pass
    return max(peaks)


@pytest.mark.slow
def test_memory_stays_level(upscale_folder, tmp_path, monkeypatch):
    # Ten latent frames at a time, so that the longer film is upsampled in pieces at this size, too.
    monkeypatch.setattr(upsampler, "WHOLE_BYTES", 10 * 2 * 2 * 32 * 4)

    def peaks(count):
        film = films.write(tmp_path / f"{count}.mp4", count, 32, 32, sound=None)
        found = {}
        with pipeline(upscale_folder("2")) as pipe:
            result = pipe.upscale(film, on_step=lambda p: found.__setitem__(p.phase, p.peak))
            # How much of what MLX has queued meets is chance: of a longer film's pieces more meet the most of it. That
            # is what must not grow, so a short film is given as many chances.
            found["decode"] = max(_decoding_peak(result) for _ in range(400 // count))
        latents = result.latents["video"].nbytes
        return {phase: peak - 3 * latents for phase, peak in found.items()}

    # Short is long enough that every layer has frames at once.
    short, long = peaks(65), peaks(161)
    assert sorted(short) == ["decode", "encode", "read", "upscale"]
    for phase in ("encode", "decode"):
        assert long[phase] < 1.03 * short[phase]
    assert max(long.values()) < 1.03 * max(short.values())


# ------------------------------------------------------------------------------------------------ refining


def refined(folder, film, **options):
    with pipeline(folder) as pipe:
        return pipe.upscale(film, refine=True, prompt="a red ball", **options)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_refining_a_short_film_is_the_last_stage_of_a_run(upscale_folder, film, generation):
    folder = upscale_folder(generation)
    noise = seeded(3)("any", (1, 128, 3, 4, 6))
    ours = refined(folder, film, noise={"refine/0/video": noise}).latents["video"]
    with pipeline(folder) as pipe:
        upscaled = pipe.upscale(film)
        recipe = REFINING["distilled"]
        checkpoint = pipe._runner.checkpoint(recipe)
        fps = float(upscaled.fps)
        request = Request(prompt="a red ball", height=128, width=192, num_frames=17, fps=fps, audio=False)
        settings = resolve(request, recipe, checkpoint)
        loader = Loader(checkpoint, mx.float32)
        _, encoder = locate.text_encoder(None, checkpoint)
        contexts = text.encode_prompts(loader, encoder, {"positive": "a red ball"}, lambda progress: None)
        with loader.borrow("transformer", audio=False) as transformer:
            draws = given({"stage2/video": noise})
            denoising = Denoising(settings, loader, transformer, None, Inputs(contexts), draws, Watch())
            last = replace(recipe.stages[0], window=None, phase=None)
            stage = denoising.stage(2, last, upscaled.latents)
    assert error(ours, stage["video"]) < 1e-6
    assert error(ours, upscaled.latents["video"]) > 0.05


@pytest.mark.slow
def test_a_seed_and_the_number_of_steps_count(upscale_folder, film):
    folder = upscale_folder("2")
    first = refined(folder, film, seed=1).latents["video"]
    assert mx.array_equal(first, refined(folder, film, seed=1, steps=3).latents["video"])
    assert error(first, refined(folder, film, seed=2).latents["video"]) > 0.01
    with pipeline(folder) as pipe:
        plain = pipe.upscale(film).latents["video"]
    changes = [error(refined(folder, film, seed=1, steps=steps).latents["video"], plain) for steps in (1, 2, 3)]
    assert changes == sorted(changes)


def test_a_dev_checkpoint_is_refined_with_the_distilled_lora(upscale_folder, film, tmp_path):
    folder = upscale_folder("2")
    for name in ("gemma", small.UPSAMPLERS["2"], small.NAMES["2"].format("dev")):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(UserError, match=r"No distilled LoRA was found .*dev checkpoint refine=True needs"):
        refined(tmp_path, film, steps=1)
    (tmp_path / small.LORAS["2"]).symlink_to(folder / small.LORAS["2"])
    with_lora = refined(tmp_path, film, steps=1).latents["video"]
    assert error(with_lora, refined(folder, film, steps=1).latents["video"]) > 1e-3


@pytest.mark.parametrize("frames", [1, 16, 17, 18, 31, 32, 33, 46, 100, 1000])
def test_chunks_cover_a_film_and_overlap(frames):
    spans = WINDOW.spans(frames)
    assert spans[0][0] == 0
    assert spans[-1][1] == frames
    assert len({stop - start for start, stop in spans}) == 1
    assert all(stop - start <= WINDOW.chunk for start, stop in spans)
    for (_, before), (start, stop) in pairwise(spans):
        assert WINDOW.held <= before - start < stop - start


class Recorder:
    """Stands in for a transformer: moves everything towards 1 and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def prepare(self, contexts, positions, masks, keyframes):
        assert keyframes is None or not self.asked  # only the first chunk begins with a clip's first frame
        self.now = (positions["video"], masks["video"])
        return self.now

    def __call__(self, x, sigma, prepared, passes, batched):
        self.asked.append((prepared, sigma["video"], x["video"]))
        return [{"video": (x["video"] - 1.0) / sigma["video"]}]


def test_a_chunk_goes_on_from_what_is_finished():
    rows, columns, frames = 1, 2, 30
    latent = mx.random.normal((1, 128, frames, rows, columns), key=mx.random.key(1))
    drawn = {}

    def noise(name, shape):
        drawn[name] = shape
        return mx.random.normal(shape, key=mx.random.key(len(drawn)))

    network, told = Recorder(), []
    contexts = {"positive": Context(mx.zeros((1, 4, 8)), mx.zeros((1, 4, 8)))}
    result = refine(network, latent, contexts, given(noise), told.append)
    (_, stop), (start, _) = spans = WINDOW.spans(frames)
    held = stop - start
    size = spans[0][1]
    assert drawn == {f"refine/{k}/video": (1, 128, size, rows, columns) for k in (0, 1)}
    assert result.shape == latent.shape
    assert [(p.phase, p.done, p.total) for p in told] == [("refine", k, 6) for k in range(7)]
    assert [sigma for _, sigma, _ in network.asked] == list(REFINE[:-1]) * 2

    shape = VideoShape((size - 1) * 8 + 1, 32 * rows, 32 * columns, 24.0)
    for (positions, mask), _, x in network.asked[3:]:
        # Held latents are what the first chunk made, at no noise; the rest is free.
        now = unpatchify(x, shape)
        assert mx.array_equal(now[:, :, :held], result[:, :, start:stop])
        np.testing.assert_array_equal(np.array(mask)[0].reshape(size, -1)[:, 0], [0] * held + [1] * (size - held))
        assert mx.array_equal(positions, video_positions((size + 1, rows, columns), 24.0)[:, :, rows * columns :])
        assert positions[0, 0, 0].tolist() == pytest.approx([1 / 24, 9 / 24])
    first = network.asked[0]
    assert first[0][0][0, 0, 0].tolist() == pytest.approx([0, 1 / 24])
    assert first[0][1].min().item() == 1
    # Everything that was free went where the network sends it.
    np.testing.assert_allclose(np.array(result), 1, atol=1e-5)


def test_rates_beyond_what_the_transformer_knows_are_capped(upscale_folder, film, monkeypatch):
    seen = []
    prepare = Transformer.prepare
    monkeypatch.setattr(Transformer, "prepare", lambda self, *a: (seen.append(a[1]["video"]), prepare(self, *a))[1])
    source = films.write(film.parent / "fast.mp4", 9, 32, 32, Fraction(96), sound=None)
    refined(upscale_folder("2"), source, steps=1, scale=1)
    assert seen[0][0, 0, 0].tolist() == pytest.approx([0, 1 / 60])


# ------------------------------------------------------------------------------------------------ asking


def test_noise_that_nothing_draws_is_an_error(upscale_folder, film):
    with pipeline(upscale_folder("2")) as pipe, pytest.raises(UserError, match="refine/0/video"):
        pipe.upscale(film, noise={"refine/0/video": np.zeros((1, 128, 3, 4, 6))})


def test_an_unknown_keyword_is_named(upscale_folder, film):
    with pipeline(upscale_folder("2")) as pipe, pytest.raises(UserError, match=r"upscale\(\).*'factor'"):
        pipe.upscale(film, factor=2)


def test_a_picture_has_no_rate(upscale_folder, inputs):
    with pipeline(upscale_folder("2")) as pipe, pytest.raises(UserError, match="no effect on a picture"):
        pipe.upscale(inputs / "picture.png", fps_scale=2)


def test_results_that_are_too_large_are_refused():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaling, "check_input", lambda path, what: path)
        patch.setattr(upscaling, "is_picture", lambda path: True)
        patch.setattr(upscaling, "read_image", lambda path: np.zeros((8, 5000, 3), np.uint8))
        with pytest.raises(UserError, match=r"5000x8; 2 times that is more than 8192.*4096"):
            read_source(Upscaling("a.png"))
        assert read_source(Upscaling("a.png", 1.5)).width == 5000
    assert replace(Upscaling("a.png"), scale=1.0, refine=True, prompt="x").upsamplers == ()
