"""LTX-Video's autoencoders: the recorded numbers of three versions, whole, in pieces and in tiles; their noise."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae import Span, Tiling
from mlx_video.models.ltx_video.config import VideoVAEConfig
from mlx_video.models.ltx_video.video_vae import Conditioned, VideoDecoder
from mlx_video.types import UserError
from tests.models.ltx_video import cases
from tests.support import small_ltx_video as small


def test_a_decoder_is_the_reference_s() -> None:
    """All cases, whole and one latent frame at a time."""
    recorded = np.load(cases.RECORDED)
    for case, (version, timestep) in cases.DECODE.items():
        decoder = small.network("video_decoder", version)
        given = decoder.condition(mx.array(cases.LATENT), timestep, cases.noise)
        whole, pieces = (mx.concatenate(list(decoder.pieces(given, size)), axis=1) for size in (None, 1))
        assert whole.shape == (1, 9, 64, 96, 3)
        for found in (whole, pieces):
            assert cases.error(np.array(found).ravel()[:: cases.STEP], recorded[f"decode/{case}"]) < cases.LIMIT, case


@pytest.mark.parametrize("version", small.VERSIONS)
def test_an_encoder_is_the_reference_s(version) -> None:
    recorded, encoder = np.load(cases.RECORDED), small.network("video_encoder", version)
    pixels, wanted = mx.array(cases.PIXELS), recorded[f"encode/{version}/latent"]
    assert cases.error(encoder(pixels), wanted) < cases.LIMIT
    assert cases.error(encoder.encode_frames(pixels, Tiling(piece=1), 9), wanted) < cases.LIMIT
    found = encoder.posterior(pixels, Stream())
    assert cases.error(found.log_variance, recorded[f"encode/{version}/log_variance"]) < cases.LIMIT
    noise = mx.array(cases.drawn("posterior", wanted.shape))
    drawn = found.mean + mx.exp(found.log_variance / 2) * noise
    assert cases.error(encoder(pixels, noise), np.array(encoder.statistics.normalize(drawn))) < 1e-6


def test_noise_has_a_name_for_each_draw() -> None:
    """Two planes for each residual block that takes noise, at its size; the other versions take none."""
    draws = small.networks("0.9.1")["video_decoder"].draws(2, 3)
    assert list(draws) == [f"decode/inject/{k}" for k in range(8)]
    assert list(draws.values()) == [(4, 6)] * 2 + [(8, 12)] * 4 + [(16, 24)] * 2
    assert all(not small.networks(version)["video_decoder"].draws(2, 3) for version in ("0.9.0", "0.9.5"))


def test_a_tile_has_the_noise_that_the_whole_has_there() -> None:
    """Cut like the latent, at every size."""
    decoder = small.network("video_decoder", "0.9.1")
    latent = mx.array(cases.drawn("wide", (1, 1, 2, 14, 8)))
    given = decoder.condition(latent, 0.05, cases.noise)
    part = given[:, :, slice(0, 1), slice(2, 5)]
    assert part.shape == (1, 1, 1, 3, 8)
    for plane, own in zip(given.planes, part.planes, strict=True):
        factor = plane.shape[0] // 2
        assert mx.array_equal(own, plane[:factor, 2 * factor : 5 * factor])
    # Left of what two tiles share there is the first one's alone, with its part of the whole's noise.
    tiling = Tiling(width=Span(256, 64), piece=1)
    tiled = mx.concatenate(list(decoder.decode_frames(latent, tiling, 0.05, cases.noise)))
    alone = mx.concatenate(list(decoder.pieces(given[:, :, :, slice(0, 8)])), axis=1)[0]
    assert tiled.shape == (1, 64, 448, 3)
    assert cases.error(tiled[:, :, :192], np.array(alone[:, :, :192])) < 1e-5


def test_what_a_decoder_must_be_told_is_asked_for() -> None:
    latent, noisy = mx.array(cases.LATENT), small.networks("0.9.1")["video_decoder"]
    with pytest.raises(ValueError, match="injects noise: 8 draws"):
        noisy.condition(latent, 0.05)
    with pytest.raises(ValueError, match="timestep = None; this decoder is told one"):
        noisy.condition(latent)
    with pytest.raises(ValueError, match=r"timestep = 0\.05; this decoder is told none"):
        small.networks("0.9.0")["video_decoder"].condition(latent, 0.05)
    assert isinstance(small.networks("0.9.5")["video_decoder"].condition(latent, 0.05), Conditioned)


def test_frames_beyond_the_last_latent_are_left_out(caplog) -> None:
    encoder = small.network("video_encoder", "0.9.5")
    found = encoder(mx.array(np.concatenate([cases.PIXELS, cases.PIXELS[:, :2]], axis=1)))
    assert cases.error(found, np.load(cases.RECORDED)["encode/0.9.5/latent"]) < cases.LIMIT
    assert "the last 2 are left out" in caplog.text


def test_sides_are_multiples_of_32() -> None:
    with pytest.raises(UserError, match="multiples of 32 pixels, not 40; nearest are 32 and 64"):
        small.networks()["video_encoder"].check(64, 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_layer": "group_norm"}, "vae.norm_layer = 'group_norm'"),
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "block 'attn_res_x'; supported here: res_x,"),
        ({"decoder_blocks": [["compress_all", {"residual": True, "multiplier": 3}]]}, "cannot be shared out"),
        ({"decoder_base_channels": 1 << 14, "decoder_blocks": [["res_x_y", 1]]}, "begin with 32,768 channels"),
        ({"encoder_blocks": None}, "vae.encoder_blocks = None"),
        ({"spatial_padding_mode": "reflect"}, "spatial_padding_mode = 'reflect'"),
    ],
)
def test_blocks_that_are_not_supported_are_named(changes, said) -> None:
    config = small.config()
    config["vae"] |= changes
    with pytest.raises(UserError, match=said):
        VideoDecoder(VideoVAEConfig.read(config))
