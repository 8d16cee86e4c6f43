"""Macs that are not there, and checkpoints of the published sizes that take no disk: what plans are made of.

A Mac is what MLX would say of it: its GPU, its memory, and how much of that the GPU may use.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs.demand import Networks, generating
from mlx_video.jobs.settings import resolve
from mlx_video.lending.loader import Loader
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.planning.plan import Memory, Plan, make_plan
from mlx_video.request import Request
from mlx_video.weights.quantize import Quantization
from tests.support import published_25, real_gemma, real_keys, small, sparse

SIZES = (16, 24, 32, 48, 64, 96, 128)
"""GB of memory that are sold."""
TEXT = {
    "hidden_size": 3840, "intermediate_size": 15_360, "num_attention_heads": 16, "num_hidden_layers": 48,
    "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024, "vocab_size": 262_208,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}  # fmt: skip


@contextmanager
def mac(gigabytes: int, architecture: str | None = "applegpu_g16s") -> Iterator[None]:
    """Within it, the platform is a Mac with so much memory; architecture: as MLX names the GPU, None where it does not
    (of what is no Apple GPU, the platform is not a Mac).

    The GPU may use two thirds of up to 32 GB and three quarters of more.
    """
    size = gigabytes << 30
    usable = size * 2 // 3 if gigabytes <= 32 else size * 3 // 4
    info = {"memory_size": size, "max_recommended_working_set_size": usable}
    info |= {} if architecture is None else {"architecture": architecture}
    metal = architecture is None or architecture.startswith("applegpu")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(platform, "is_cpu", return_value=False))
        stack.enter_context(mock.patch.object(platform, "is_metal", return_value=metal))
        stack.enter_context(mock.patch.object(mx, "device_info", return_value=info))
        yield


def make(folder: Path, generation: str) -> Path:
    """Writes a folder with both variants, the upsampler, the distilled LoRA and the text encoder, all holes."""
    folder.mkdir(parents=True)
    if generation == "2.5":
        return published_25.write(folder)
    distilled = sparse.make(folder, generation)
    (folder / distilled.name.replace("distilled", "dev")).symlink_to(distilled.name)
    config, tensors = real_keys.upsamplers(generation)["spatial_x2"]
    sparse.write(folder / small.UPSAMPLERS[generation], dict(tensors), {"config": json.dumps(config)})
    sparse.write(folder / small.LORAS[generation], dict(real_keys.lora(generation)), {})
    gemma = folder / "gemma"
    gemma.mkdir()
    entries = {name: (entry.dtype, entry.shape) for name, entry in real_gemma.entries().items()}
    sparse.write(gemma / "model.safetensors", entries, {})
    (gemma / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": TEXT}))
    return folder


def plan(folder: Path, request: Request, memory: Memory | None = None, bits: int | None = None) -> Plan:
    """The plan of a run in bfloat16 on a folder that `make` has made; its headers are read once."""
    recipe = request.check(RECIPES)
    found = networks(folder, recipe.variant, bits)
    return make_plan(generating(found, resolve(request, recipe, found.loader.checkpoint)), memory or Memory())


_opened = functools.cache(open_checkpoint)


@functools.cache
def networks(folder: Path, variant: str, bits: int | None) -> Networks:
    """Of a folder that `make` has made; weighed once."""
    how: Any = None if bits is None else Quantization.of(bits)
    checkpoint, encoder = locate.text_encoder(None, _opened(folder, variant))
    return Networks.of(Loader(checkpoint, mx.bfloat16, how), encoder, writer=encoder)
