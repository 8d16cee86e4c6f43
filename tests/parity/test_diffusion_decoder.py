"""LTX-2.5's diffusion decoder and duration head against diffusers, whose neighbourhood attention is written out here.

diffusers knows plain windows alone, and neither pads small latents nor keeps the context as long as the last window:
those rules are held by definitions (`tests/models/test_diffusion_decoder.py`) and recordings (`oracle25_decoder.py`).
"""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
import pytest

from tests.models import diffusion_decoder_cases as cases
from tests.parity import reference

pytestmark = pytest.mark.parity
torch = reference.torch
theirs = pytest.importorskip("diffusers.models.autoencoders.ltx2_diffusion_decoder")
durations = pytest.importorskip("diffusers.pipelines.ltx2.duration_head")

from mlx_video.models.ltx_2.config import DiffusionDecoderConfig, DurationConfig  # noqa: E402
from mlx_video.models.ltx_2.diffusion_decoder import DiffusionDecoder  # noqa: E402
from mlx_video.models.ltx_2.duration import DurationHead  # noqa: E402
from mlx_video.weights import names  # noqa: E402

LIMIT = 2e-5
RENAMES = (
    (r"attn\.norm_([qk])\.", r"attn.\1_norm."), (r"attn\.to_out\.0\.", "attn.proj."),
    (r"timestep_embedder\.linear_1", "mlp.0"), (r"timestep_embedder\.linear_2", "mlp.2"),
)  # fmt: skip


class Written:
    """Stands in for diffusers' kernels."""

    def __call__(self, attn, hidden_states, block_mask=None):
        q, k, v = (x[0].numpy() for x in attn.project_qkv(hidden_states))
        found = torch.from_numpy(cases.neighbourhood(q, k, v, attn.kernel_size))
        return attn.to_out[0](found.flatten(-2)[None])


def official(state: dict, prefix: str) -> dict[str, mx.array]:
    """Their tensors under the published names, queries, keys and values as one."""
    found: dict[str, list] = {}
    # Queries come before keys, keys before values.
    for name, value in sorted(state.items(), key=lambda pair: ".to_k." in pair[0] or 2 * (".to_v." in pair[0])):
        fused = re.sub(r"\.to_[qkv]\.", ".qkv.", name)
        for pattern, replacement in RENAMES:
            fused = re.sub(pattern, replacement, fused)
        found.setdefault(prefix + fused, []).append(value.numpy())
    return {name: mx.array(np.concatenate(values)) for name, values in found.items()}


@pytest.mark.parametrize("grid", [(3, 3, 4), (5, 4, 3)])
def test_decodes_as_diffusers(grid):
    config = DiffusionDecoderConfig.read(cases.SETTINGS)
    *stages, last = config.stages
    network = theirs.LTX2VideoDiffusionDecoder3d(
        in_channels=8, patch_size=2, head_dim=16, stage_channels=tuple(one.channels for one in config.stages),
        stage_depths=tuple(one.depth for one in config.stages), stage_kernels=tuple(one.window for one in stages),
        upsample_strides=tuple(one.growth for one in stages), upsample_channel_reductions=(1, 2, 1, 1),
        stage5_kernel=last.window, temporal_compression_ratio=4,
    )  # fmt: skip
    reference.randomize(network, 1)
    for block in [*(block for stage in network.det_stages for block in stage), *network.diff_blocks]:
        block.attn.set_processor(Written())
        block.attn.build_block_mask = lambda hidden_states: None
    ours = DiffusionDecoder(config, repeats_columns=False)
    values = {"mean": mx.zeros((8,)), "std": mx.ones((8,))}
    statistics = {f"per_channel_statistics.{name}-of-means": value for name, value in values.items()}
    names.assign(ours, {**official(network.state_dict(), "decoder."), **statistics}, "diffusion decoder")
    latent, canvas = reference.normal(3, 1, 8, *grid), ours.canvas(grid)
    noise = reference.normal(4, 1, 3, *canvas.size)
    context = network.forward_stage_4(network.forward_stages_1_to_3(latent))
    wanted = np.moveaxis(network.denoise(context, noise, 1).numpy(), 1, -1)
    found = np.array(ours(*(mx.array(np.moveaxis(x.numpy(), 1, -1)) for x in (latent, noise))))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < LIMIT


def test_tells_the_duration_as_diffusers():
    widths = {"video_cross_attention_dim": 12, "audio_cross_attention_dim": 10}
    network = reference.randomize(durations.LTX2DurationHead(**widths), 2)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    parts = [[state.pop(f"attention_pooler.to_{x}.{kind}") for x in "qkv"] for kind in ("weight", "bias")]
    for kind, values in zip(("weight", "bias"), parts, strict=True):
        state[f"attention_pooler.cross_attn.in_proj_{kind}"] = np.concatenate(values)
        state[f"attention_pooler.cross_attn.out_proj.{kind}"] = state.pop(f"attention_pooler.to_out.{kind}")
    head = DurationHead(DurationConfig(12, 10))
    names.assign(head, {f"duration_head.{name}": mx.array(value) for name, value in state.items()}, "duration head")
    video, audio = reference.normal(5, 2, 9, 12), reference.normal(6, 2, 7, 10)
    for given in ((video, audio), (video, None), (None, audio)):
        wanted = network(*given).numpy()
        found = np.array(head(*(None if x is None else mx.array(x.numpy()) for x in given)))
        assert np.abs(found / wanted.reshape(-1) - 1).max() < LIMIT
