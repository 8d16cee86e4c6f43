"""A checkpoint between the small ones of the tests and the real ones: large enough that weights can dominate memory.

Structure and names are the real files'; widths and numbers of blocks are cut down, weights are random. The encoders,
the audio autoencoder, the vocoder and the upsampler are the tests' small ones. Written by
`python -m bench.run --only memory` to a temporary folder; about 0.6 GB.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.config import feature_width
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.weights import names
from tests.support import real_keys, small, small_gemma

WIDTH, AUDIO_WIDTH, BLOCKS, HEAD = 1024, 512, 8, 64
TEXT_WIDTH, TEXT_LAYERS, TEXT_FEED = 1024, 8, 4096
BASE_CHANNELS, LORA_RANK = 32, 64


def config(generation: str) -> dict[str, Any]:
    """The real config with less of everything."""
    found = real_keys.config(generation)
    t = found["transformer"]
    connector = {"connector_num_attention_heads": WIDTH // HEAD, "connector_attention_head_dim": HEAD}
    if t.get("caption_proj_before_connector"):
        audio = {"audio_connector_num_attention_heads": AUDIO_WIDTH // HEAD, "audio_connector_attention_head_dim": HEAD}
    else:
        audio = {"caption_channels": WIDTH}
    t.update(
        num_layers=BLOCKS, num_attention_heads=WIDTH // HEAD, attention_head_dim=HEAD, cross_attention_dim=WIDTH,
        audio_num_attention_heads=AUDIO_WIDTH // HEAD, audio_attention_head_dim=HEAD, audio_cross_attention_dim=AUDIO_WIDTH,
        connector_num_layers=2, **connector, **audio,
    )  # fmt: skip
    if "audio_connector_num_layers" in t:
        t["audio_connector_num_layers"] = 2
    encoder = {key: value for key, value in small.config(generation)["vae"].items() if key.startswith("encoder_")}
    found["vae"].update(encoder, decoder_base_channels=BASE_CHANNELS)
    found["audio_vae"], found["vocoder"] = small.config(generation)["audio_vae"], small.config(generation)["vocoder"]
    return found


def make(folder: Path, generation: str = "2.3") -> Path:
    """Writes the folder and returns it."""
    small.make(folder, generation)
    own = config(generation)
    tensors = {
        name: array
        for name, array in small.tensors(generation, "dev").items()
        if name.startswith(("vae.encoder.", "vae.per_channel", "audio_vae.", "vocoder."))
    }
    for component in ("transformer", "connectors", "video_decoder"):
        tensors.update((name, _random(shape)) for name, shape in _shapes(component, generation, own))
    metadata = {"config": json.dumps(own), "model_version": "2.3.0" if generation == "2.3" else "2.0.0"}
    for old in folder.glob("*.safetensors"):
        if "upscaler" not in old.name:
            old.unlink()
    mx.save_safetensors(str(folder / small.NAMES[generation].format("dev")), tensors, metadata)
    (folder / small.NAMES[generation].format("distilled")).symlink_to(small.NAMES[generation].format("dev"))
    mx.save_safetensors(str(folder / small.LORAS[generation]), _lora(tensors), {"format": "pt"})
    _make_gemma(folder / "gemma")
    return folder


def _shapes(component: str, generation: str, own: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Official names with the shapes that the smaller network wants."""
    listed = {name: tensor.shape for name, tensor in real_keys.load(generation).items()}
    entry = COMPONENTS[component]
    real, cut = (
        entry.build(values, **({"features": features} if component == "connectors" else {}))
        for values, features in (
            (real_keys.config(generation), feature_width(listed) if component == "connectors" else 0),
            (own, TEXT_WIDTH * (TEXT_LAYERS + 1)),
        )
    )
    wanted = names.shapes(cut)
    within = {name: shape for name, shape in listed.items() if name.startswith(entry.prefixes)}
    for name, path in names.match(real, within, component).items():
        if path in wanted and not name.startswith("vae.per_channel"):
            yield name, wanted[path]


def _lora(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    found = {}
    for name, array in tensors.items():
        base = name.removeprefix("model.").removesuffix(".weight")
        if name.endswith(".weight") and array.ndim == 2 and name.startswith(small.DIT) and "_connector." not in name:
            found[f"{base}.lora_A.weight"] = _random((LORA_RANK, array.shape[1]))
            found[f"{base}.lora_B.weight"] = _random((array.shape[0], LORA_RANK))
    return found


def _make_gemma(folder: Path) -> None:
    small_gemma.make_gemma(folder, width=small.TEXT_WIDTH, layers=1)
    values = json.loads((folder / "config.json").read_text())
    values["text_config"].update(
        hidden_size=TEXT_WIDTH, num_hidden_layers=TEXT_LAYERS, num_attention_heads=TEXT_WIDTH // HEAD,
        num_key_value_heads=TEXT_WIDTH // HEAD // 2, head_dim=HEAD, intermediate_size=TEXT_FEED, query_pre_attn_scalar=HEAD,
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(TEXT_LAYERS)],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    from mlx_video.models.ltx_2.text_encoder.gemma import Gemma
    from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig

    network = Gemma(GemmaConfig.of_folder(folder))
    tensors = {f"language_{path}": _random(array.shape) for path, array in tree_flatten(network.parameters())}
    tensors = {name.replace("language_model.", "language_model.model."): array for name, array in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "pt"})


@functools.lru_cache(maxsize=16)
def _random(shape: tuple[int, ...]) -> mx.array:
    draw = np.random.default_rng(sum(shape))
    scale = 0.02 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
    return mx.array(draw.standard_normal(shape, np.float32) * np.float32(scale)).astype(mx.bfloat16)
