"""Upscaling against the torch reference's encoder, `upsample_video` and decoder on the same small checkpoint."""

from fractions import Fraction

import numpy as np
import pytest

from mlx_video import LTXPipeline
from mlx_video.media.video import read_video
from mlx_video.models.ltx_2 import upsampler
from tests.parity.reference import torch
from tests.support import films, small
from tests.support.cases import GENERATIONS, error, levels_apart

pytestmark = pytest.mark.parity
ledgers = pytest.importorskip("ltx_pipelines.utils.model_ledger")
upsampling = pytest.importorskip("ltx_core.model.upsampler")

LIMIT = 2e-5
CASES = {"spatial x2": {}, "spatial x1.5": {"scale": 1.5}, "temporal x2": {"scale": 1, "fps_scale": 2}}


def reference(folder, generation, kind, frames):
    """Final latent and frames of the reference for (F, H, W, 3) uint8 frames of a size that its networks take."""
    files = {"spatial x2": small.UPSAMPLERS[generation]}
    name = files.get(kind, f"ltx-{generation}-{kind.replace(' ', '-upscaler-')}-1.0.safetensors")
    ledger = ledgers.ModelLedger(
        torch.float32,
        torch.device("cpu"),
        str(folder / small.NAMES[generation].format("distilled")),
        spatial_upsampler_path=str(folder / name),
    )
    encoder = ledger.video_encoder()
    pixels = torch.from_numpy(np.moveaxis(frames, -1, 0)[None].astype(np.float32)) / 127.5 - 1
    latent = upsampling.upsample_video(encoder(pixels), encoder, ledger.spatial_upsampler())
    shown = (((ledger.video_decoder()(latent) + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)
    return latent.numpy(), np.moveaxis(shown[0].numpy(), 0, -1)


@pytest.mark.parametrize("pieces", [False, True], ids=["one pass", "pieces"])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_video_is_the_reference_s(upscale_folder, tmp_path, monkeypatch, generation, kind, pieces):
    if pieces:
        monkeypatch.setattr(upsampler, "WHOLE_BYTES", 1)
    folder = upscale_folder(generation)
    film = films.write(tmp_path / "film.mp4", 17, 64, 96, Fraction(24))
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        ours = pipe.upscale(film, tiling="none", **CASES[kind])
        latent, shown = reference(folder, generation, kind, np.stack(list(read_video(film).frames())))
        assert error(ours.latents["video"], latent) < LIMIT
        assert levels_apart(np.stack(list(ours)), shown[:, : ours.shape.height, : ours.shape.width]) <= 1e-3


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_padded_video_is_the_reference_s_of_the_padded_one(upscale_folder, tmp_path, generation):
    folder = upscale_folder(generation)
    film = films.write(tmp_path / "film.mp4", 10, 50, 70, Fraction(24))
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        ours = pipe.upscale(film, tiling="none")
        frames = np.pad(np.stack(list(read_video(film).frames())), ((0, 7), (0, 14), (0, 26), (0, 0)), mode="edge")
        latent, shown = reference(folder, generation, "spatial x2", frames)
        assert error(ours.latents["video"], latent) < LIMIT
        assert levels_apart(np.stack(list(ours)), shown[:10, :100, :140]) <= 1e-3
