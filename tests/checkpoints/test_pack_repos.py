"""What a run fetches of repos with LTX-2.5 in packs of other converters; their lists as others describe them."""

import pytest

from mlx_video.checkpoints.hub import repos
from mlx_video.checkpoints.hub.rules import choose

NEEDED = ["transformer-distilled", "connector", "vae_decoder_conv", "vae_encoder_conv", "audio_vae", "vocoder"]
CONFIGS = ["embedded_config.json", "split_model.json"]
TEXT = ["text_encoder.safetensors", "text_encoder_config.json", "tokenizer.json", "tokenizer_config.json"]
EXTRAS = ["vae_decoder_av", "vae_encoder_av", "duration_head", "spatial_upscaler_x2_v1_0", "temporal_upscaler_x2_v1_0"]
EXTRAS += ["transformer-dev", "ltx-2.5-22b-distilled-lora-450-bf16"]
PACK = [
    *CONFIGS,
    *(f"{name}.safetensors" for name in (*NEEDED, *EXTRAS)),
    "LICENSE",
    "README.md",
    "chat_template.jinja",
]
PACK += ["generation_config.json", "processor_config.json"]
GEMMA = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"]
GEMMA += ["model.safetensors.index.json", "tokenizer_config.json"]
REPOS = {
    "dgrauet/ltx-2.5-mlx": ([*PACK, *TEXT], TEXT),
    "dgrauet/ltx-2.5-mlx-q8, -q4": ([*PACK, *TEXT, "quantize_config.json"], [*TEXT, "quantize_config.json"]),
    "MrMofer/ltx-2.5-mlx-q8": (
        [*PACK, "config.json", "quantize_config.json", *(f"text_encoder/{name}" for name in GEMMA)],
        [f"text_encoder/{name}" for name in GEMMA],
    ),
    "mlx-community/ltx-2.5-mlx, -q8": (
        [*PACK, *(f"gemma4-12b-ltx-v1/{name}" for name in GEMMA)], [f"gemma4-12b-ltx-v1/{name}" for name in GEMMA],
    ),
}  # fmt: skip


@pytest.mark.parametrize("repo", REPOS)
def test_of_a_repo_a_run_fetches_what_it_needs_and_no_other(repo):
    files, text = REPOS[repo]
    found = choose(files, "checkpoint", "distilled")
    jsons = {name for name in files if name in (*CONFIGS, "config.json", "quantize_config.json")}
    assert set(found) == {f"{name}.safetensors" for name in NEEDED} | jsons
    assert "transformer-dev.safetensors" in choose(files, "checkpoint", "dev")
    assert set(choose(files, "text_encoder")) == set(text)
    for kind, name in {
        "upsampler": "spatial_upscaler_x2_v1_0", "temporal x2": "temporal_upscaler_x2_v1_0",
        "lora": "ltx-2.5-22b-distilled-lora-450-bf16", "diffusion video VAE": "vae_decoder_av",
        "duration head": "duration_head",
    }.items():  # fmt: skip
        assert choose(files, kind) == [f"{name}.safetensors"], kind


def test_a_pack_s_text_encoder_is_fetched_with_what_lies_beside_it(tmp_path):
    files = [*PACK, *TEXT]

    def take(repo, choose_from):
        assert set(choose_from(files)) == set(TEXT)
        return tmp_path

    assert repos.fetch_text_encoder("dgrauet/ltx-2.5-mlx", take) == tmp_path / "text_encoder.safetensors"
