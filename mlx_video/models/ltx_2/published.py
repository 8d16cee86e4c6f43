"""The configs of Lightricks' own LTX-2, 2.3 and 2.5 files, for packs of other converters that do not carry them.

As in the files' metadata, without keys that describe training. What a pack does carry is taken in place of this, and
every size is checked against the tensors. Knows no layout.
"""

from __future__ import annotations

from typing import Any

_TRANSFORMER: dict[str, Any] = {
    "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
    "attention_head_dim": 128, "num_attention_heads": 32, "num_layers": 48, "in_channels": 128, "out_channels": 128,
    "cross_attention_dim": 4096, "caption_channels": 3840, "cross_attention_norm": True, "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm", "norm_elementwise_affine": False, "norm_eps": 1e-06,
    "num_embeds_ada_norm": 1000, "positional_embedding_type": "rope", "rope_type": "split",
    "frequencies_precision": "float64", "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "use_middle_indices_grid": True, "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": 1000.0,
    "use_audio_video_cross_attention": True, "share_ff": False, "av_cross_ada_norm": True,
    "audio_num_attention_heads": 32, "audio_attention_head_dim": 64, "audio_out_channels": 128,
    "audio_cross_attention_dim": 2048, "audio_positional_embedding_max_pos": [20],
    "connector_attention_head_dim": 128, "connector_num_attention_heads": 30, "connector_num_layers": 2,
    "connector_positional_embedding_max_pos": [4096], "connector_num_learnable_registers": 128,
}  # fmt: skip
_TRANSFORMER_23 = {
    "connector_num_attention_heads": 32, "connector_num_layers": 8, "apply_gated_attention": True,
    "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
    "caption_projection_second_linear": False, "caption_proj_input_norm": False, "caption_proj_before_connector": True,
    "audio_connector_attention_head_dim": 64, "audio_connector_num_attention_heads": 32, "cross_attention_adaln": True,
}  # fmt: skip
_VAE: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform", "causal_decoder": False,
    "timestep_conditioning": False, "encoder_base_channels": 128, "decoder_base_channels": 128,
}  # fmt: skip


def _blocks(*blocks: tuple[str, int]) -> list[Any]:
    return [[kind, {"num_layers" if kind == "res_x" else "multiplier": number}] for kind, number in blocks]


_RESIDUAL: list[Any] = ["compress_all", {"residual": True, "multiplier": 2}]
_STACK: list[Any] = ["res_x", {"num_layers": 5, "inject_noise": False}]
_VAE_2 = {
    "encoder_blocks": _blocks(
        ("res_x", 4), ("compress_space_res", 2), ("res_x", 6), ("compress_time_res", 2), ("res_x", 6),
        ("compress_all_res", 2), ("res_x", 2), ("compress_all_res", 2), ("res_x", 2),
    ),
    "decoder_blocks": [_STACK, _RESIDUAL, _STACK, _RESIDUAL, _STACK, _RESIDUAL, _STACK],
}  # fmt: skip
_VAE_23 = {
    "encoder_blocks": _blocks(
        ("res_x", 4), ("compress_space_res", 2), ("res_x", 6), ("compress_time_res", 2), ("res_x", 4),
        ("compress_all_res", 2), ("res_x", 2), ("compress_all_res", 1), ("res_x", 2),
    ),
    "decoder_blocks": _blocks(
        ("res_x", 4), ("compress_space", 2), ("res_x", 6), ("compress_time", 2), ("res_x", 4), ("compress_all", 1),
        ("res_x", 2), ("compress_all", 2), ("res_x", 2),
    ),
    "spatial_padding_mode": "zeros",
}  # fmt: skip
_AUDIO_VAE: dict[str, Any] = {
    "model": {"params": {"sampling_rate": 16000, "ddconfig": {
        "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "in_channels": 2, "out_ch": 2, "ch": 128,
        "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "mid_block_add_attention": False,
        "norm_type": "pixel", "causality_axis": "height"}}},
    "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}, "mel": {"n_mel_channels": 64}},
}  # fmt: skip
_SNAKE: dict[str, Any] = {
    "resblock": "AMP1", "activation": "snakebeta", "stereo": True, "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "use_tanh_at_final": False,
    "use_bias_at_final": False,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "2": {
        "transformer": _TRANSFORMER,
        "vae": {**_VAE, **_VAE_2},
        "audio_vae": _AUDIO_VAE,
        "vocoder": {
            "upsample_initial_channel": 1024, "resblock": "1", "upsample_rates": [6, 5, 2, 2, 2], "stereo": True,
            "resblock_kernel_sizes": [3, 7, 11], "upsample_kernel_sizes": [16, 15, 8, 4, 4],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        },
    },
    "2.3": {
        "transformer": {**_TRANSFORMER, **_TRANSFORMER_23},
        "vae": {**_VAE, **_VAE_23},
        "audio_vae": _AUDIO_VAE,
        "vocoder": {
            "vocoder": {
                **_SNAKE, "upsample_initial_channel": 1536, "upsample_rates": [5, 2, 2, 2, 2, 2],
                "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            },
            "bwe": {
                **_SNAKE, "upsample_initial_channel": 512, "upsample_rates": [6, 5, 2, 2, 2],
                "upsample_kernel_sizes": [12, 11, 4, 4, 4], "apply_final_activation": False, "hop_length": 80,
                "input_sampling_rate": 16000, "output_sampling_rate": 48000, "n_fft": 512, "num_mels": 64,
            },
        },
    },
}  # fmt: skip
"""By generation."""
CONFIGS["2.5"] = {
    **CONFIGS["2.3"],
    "transformer": {**CONFIGS["2.3"]["transformer"], "ff_bias": False, "use_keyframes_abs_pos_embedding": True},
}
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "2.5": {
        "diffusion_decoder": {"vae": {
            "_class_name": "CausalDiffusionVAE", "dims": 3, "model_output_type": "x0",
            "decoder": {
                "_class_name": "NADiffusionDecoder", "in_channels": 128, "out_channels": 3, "patch_size": 4,
                "head_dim": 64, "stage_channels": [2048, 1024, 512, 512, 256], "stage_depths": [4, 6, 4, 2, 8],
                "stage_kernels": [[3, 7, 7], [3, 7, 7], [3, 5, 5], [3, 5, 5], [11, 11, 11]],
                "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
                "stage5_kernel": [11, 11, 11], "resampler_kind": "linear", "timestep_scale_multiplier": 1000.0,
                "default_num_inference_steps": 1,
            },
        }},
        "duration_head": {"duration_head": {}},
    },
}  # fmt: skip
"""By generation and component, of those whose files state their own: the sections in which they differ."""
