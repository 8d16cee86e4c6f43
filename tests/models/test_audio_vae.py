"""The audio autoencoder: numbers from a recorded fixture, lengths, refusals, the real checkpoints' names."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_2.audio_vae import AudioDecoder, AudioEncoder, blocks
from mlx_video.models.ltx_2.config import AudioVAEConfig
from mlx_video.types import AudioShape, UserError
from mlx_video.weights import names
from tests.models.test_vocoder import GENERATIONS, RECORDED, error, given, normal
from tests.support import real_keys, small

CODERS = {"decoder": AudioDecoder, "encoder": AudioEncoder}


def make(name: str, generation: str = "2.3", dtype: mx.Dtype = mx.float32):
    coder = CODERS[name](AudioVAEConfig.read(small.config(generation)))
    tensors = small.tensors(generation, "distilled").items()
    names.assign(coder, {k: v for k, v in tensors if k.startswith(tuple(coder.prefixes))}, name, dtype=dtype)
    return coder


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", CODERS)
def test_recorded_numbers(name, generation):
    assert error(make(name, generation)(mx.array(given(name))), np.load(RECORDED)[f"{generation}/{name}"]) < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_lengths(frames):
    mel = make("decoder")(normal(1, 8, frames, 16))
    assert mel.shape == (1, 2, AudioShape(frames).mel_frames, 64)
    assert make("encoder")(mel).shape == (1, 8, frames, 16)


def test_a_latent_sees_no_later_frame():
    encoder, early = make("encoder"), normal(1, 2, 21, 64)
    changed = mx.concatenate([early[:, :, :13], normal(1, 2, 8, 64, seed=1)], axis=2)
    a, b = encoder(early), encoder(changed)
    assert error(a[:, :, :4], np.array(b[:, :, :4])) < 1e-6
    assert error(a[:, :, 4:], np.array(b[:, :, 4:])) > 1e-2


@pytest.mark.parametrize("name", CODERS)
def test_tiles_give_what_the_whole_gives(name, monkeypatch):
    config = small.config("2.3")
    config["audio_vae"]["model"]["params"]["ddconfig"].update(ch=32, mel_bins=16, ch_mult=[1, 2, 1])
    coder = CODERS[name](AudioVAEConfig.read(config))
    x = normal(*{"decoder": (2, 8, 40, 4), "encoder": (2, 2, 157, 16)}[name])
    whole, lengths, taken = np.array(coder(x)), [], blocks.in_tiles

    def in_tiles(function, y, **sizes):
        def counted(piece):
            lengths.append((y.shape[1], piece.shape[1]))
            return function(piece)

        return taken(counted, y, **sizes)

    monkeypatch.setattr(blocks, "in_tiles", in_tiles)
    monkeypatch.setattr(blocks, "TILE_ELEMENTS", 1)
    assert error(coder(x), whole) < 5e-6
    assert any(piece < length for length, piece in lengths)


@pytest.mark.parametrize("name", CODERS)
def test_computes_in_the_precision_of_its_weights(name):
    exact, coarse = (make(name, dtype=dtype)(mx.array(given(name))) for dtype in (mx.float32, mx.bfloat16))
    assert coarse.dtype == mx.bfloat16
    assert error(coarse.astype(mx.float32), np.array(exact)) < 0.1


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", CODERS)
def test_real_names_and_shapes_map_one_to_one_without_allocating(name, generation):
    before = mx.get_active_memory()
    coder = CODERS[name](AudioVAEConfig.read(real_keys.config(generation)))
    prefixes = tuple(coder.prefixes)
    found = {k: t.shape for k, t in real_keys.load(generation).items() if k.startswith(prefixes)}
    assert set(names.match(coder, found, name)) == set(found)
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mid_block_add_attention": True}, "attention"),
        ({"attn_resolutions": [64]}, "attention"),
        ({"causality_axis": "width"}, "causality_axis"),
        ({"norm_type": "group"}, "norm_type"),
        ({"double_z": False}, "double_z"),
        ({"ch_mult": [1, 2]}, "2 levels"),
        ({"ch": 64}, "must be 128"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes, words):
    config = small.config("2")
    config["audio_vae"]["model"]["params"]["ddconfig"].update(changes)
    with pytest.raises(UserError, match=words):
        AudioVAEConfig.read(config)


def test_what_a_config_may_leave_out():
    config = small.config("2")
    full = AudioVAEConfig.read(config)
    for key in ("mel_bins", "attn_resolutions", "z_channels", "in_channels", "ch", "resolution"):
        del config["audio_vae"]["model"]["params"]["ddconfig"][key]
    del config["audio_vae"]["preprocessing"]
    assert AudioVAEConfig.read(config) == full
