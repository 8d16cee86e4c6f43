"""The transformer with its text path as one module, in the form that training and watching need.

Everything inside is the reference's own module; what is added is a cache of the rotary tables (they depend on the grid
alone) and the choice of timesteps for parts of a clip that are given (a picture, a sound).
"""

from __future__ import annotations

import torch
from ltx_core.guidance.perturbations import (
    BatchedPerturbationConfig,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
)
from ltx_core.model.transformer.modality import Modality

from . import configs
from .reference import build, use_plain_attention
from .text import TextEncoder
from .world import FPS


def video_positions(f: int, h: int, w: int) -> torch.Tensor:
    """(1, 3, tokens, 2): seconds, pixels, pixels; start and end of every token."""
    index = torch.stack(torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
    t = index[0].float()
    start = torch.stack([(8 * t - 7).clamp(min=0) / FPS, index[1] * 32.0, index[2] * 32.0])
    end = torch.stack([(8 * t + 1) / FPS, index[1] * 32.0 + 32, index[2] * 32.0 + 32])
    return torch.stack([start, end], -1)[None]


def picture_positions(frame: int, h: int, w: int) -> torch.Tensor:
    """(1, 3, h * w, 2): where the tokens stand that a picture at a frame other than the first adds to a clip."""
    place = video_positions(1, h, w)
    place[:, 0] = torch.tensor([frame / FPS, (frame + 8) / FPS])
    return place


def audio_positions(tokens: int) -> torch.Tensor:
    t = torch.arange(tokens).float()
    return torch.stack([(4 * t - 3).clamp(min=0) * 0.01, (4 * t + 1) * 0.01], -1)[None, None]


def audio_tokens(latent_frames: int) -> int:
    return round(25 * (8 * latent_frames - 7) / FPS)


# The extra passes of guidance: neither modality sees the other; one block does without self-attention. The pipelines take
# the block at 28/48 of the depth.
ISOLATED = [
    Perturbation(PerturbationType.SKIP_A2V_CROSS_ATTN, None),
    Perturbation(PerturbationType.SKIP_V2A_CROSS_ATTN, None),
]
_BLOCK = [configs.LAYERS * 28 // 48]
UNATTENDED = [
    Perturbation(PerturbationType.SKIP_VIDEO_SELF_ATTN, _BLOCK),
    Perturbation(PerturbationType.SKIP_AUDIO_SELF_ATTN, _BLOCK),
]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer, self.text = build("transformer"), TextEncoder()
        use_plain_attention(self.transformer)
        for name, p in self.transformer.named_parameters():
            if "scale_shift_table" in name:
                torch.nn.init.normal_(p, 0, 0.02)
        with torch.no_grad():
            for head in (self.transformer.proj_out, self.transformer.audio_proj_out):
                head.weight.mul_(0.1)
                head.bias.zero_()
        for prepare in (self.transformer.video_args_preprocessor, self.transformer.audio_args_preprocessor):
            _cache_rotary_tables(prepare.simple_preprocessor)

    def forward(
        self, video, audio, sigma, context, grid, *, video_mask=None, picture=None, audio_given=False, perturbed=()
    ):
        """Velocities of video (B, tokens, 128) and audio. `sigma` (B,); `context` as TextEncoder.context gives it;
        `video_mask` (tokens,) is 0 where the latents are given, 1 elsewhere; `picture` is (frame, latents (B, h * w, 128))
        of a picture that is shown at a frame other than the first; `perturbed` is a list of Perturbation."""
        batch, tokens, positions = len(video), video.shape[1], video_positions(*grid)
        per_clip = sigma[:, None]
        if picture is not None:
            frame, latents = picture
            video_mask = torch.ones(tokens) if video_mask is None else video_mask
            video_mask = torch.cat([video_mask, torch.zeros(latents.shape[1])])
            video = torch.cat([video, latents], 1)
            positions = torch.cat([positions, picture_positions(frame, *grid[1:])], 2)
        video_times = per_clip if video_mask is None else per_clip * video_mask[None]
        audio_times = per_clip * 0 if audio_given else per_clip
        v, a, bias = context
        everyone = lambda x: x.expand(batch, *x.shape[1:])
        velocity, audio_velocity = self.transformer(
            Modality(
                latent=video,
                sigma=sigma,
                timesteps=video_times,
                positions=everyone(positions),
                context=v,
                context_mask=bias,
            ),
            Modality(
                latent=audio,
                sigma=sigma,
                timesteps=audio_times,
                positions=everyone(audio_positions(audio.shape[1])),
                context=a,
                context_mask=bias,
            ),
            BatchedPerturbationConfig([PerturbationConfig(list(perturbed))] * batch),
        )
        return velocity[:, :tokens], audio_velocity


def _cache_rotary_tables(preprocessor) -> None:
    compute, tables = preprocessor._prepare_positional_embeddings, {}

    def cached(positions, inner_dim, max_pos, use_middle_indices_grid, num_attention_heads, x_dtype):
        batch, last = positions.shape[0], positions[0, :, -1]
        key = (tuple(positions.shape[1:]), tuple(last.flatten().tolist()), inner_dim, x_dtype)
        if key not in tables:
            tables[key] = compute(
                positions[:1], inner_dim, max_pos, use_middle_indices_grid, num_attention_heads, x_dtype
            )
        return tuple(x.expand(batch, *x.shape[1:]) for x in tables[key])

    preprocessor._prepare_positional_embeddings = cached
