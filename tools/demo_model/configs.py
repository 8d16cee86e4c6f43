"""The sizes of the demo model, as the configs that its files carry.

The transformer, text, VAE and vocoder parts sit in the checkpoint's metadata under "config" (`checkpoint_config`), the
upsampler's in its own file, Gemma's in its folder. Keys and meanings are those of the LTX-2.3 files; only numbers are
small. Where a number cannot shrink (the video encoder starts at 128 channels, the audio VAE too) the depth does.
"""

HEADS, VIDEO_HEAD, AUDIO_HEAD = 4, 32, 16
VIDEO_WIDTH, AUDIO_WIDTH = HEADS * VIDEO_HEAD, HEADS * AUDIO_HEAD
LAYERS = 6
MODEL_VERSION = "2.3.0"
CONTEXT_TOKENS = 1024
REGISTERS = 128

DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINE_SIGMAS = (0.909375, 0.725, 0.421875, 0.0)

TRANSFORMER = {
    "_class_name": "AVTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "apply_gated_attention": True,
    "attention_bias": True,
    "attention_head_dim": VIDEO_HEAD,
    "attention_type": "default",
    "audio_attention_head_dim": AUDIO_HEAD,
    "audio_connector_attention_head_dim": AUDIO_HEAD,
    "audio_connector_num_attention_heads": HEADS,
    "audio_cross_attention_dim": AUDIO_WIDTH,
    "audio_num_attention_heads": HEADS,
    "audio_out_channels": 128,
    "audio_positional_embedding_max_pos": [20],
    "av_ca_timestep_scale_multiplier": 1000.0,
    "av_cross_ada_norm": True,
    "caption_channels": 64,
    "caption_proj_before_connector": True,
    "caption_proj_input_norm": False,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "causal_temporal_positioning": True,
    "connector_apply_gated_attention": True,
    "connector_attention_head_dim": VIDEO_HEAD,
    "connector_learnable_registers_std": 1,
    "connector_norm_output": True,
    "connector_num_attention_heads": HEADS,
    "connector_num_layers": 1,
    "connector_num_learnable_registers": REGISTERS,
    "connector_positional_embedding_max_pos": [4096],
    "cross_attention_adaln": True,
    "cross_attention_dim": VIDEO_WIDTH,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "dropout": 0.0,
    "frequencies_precision": "float64",
    "in_channels": 128,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "num_attention_heads": HEADS,
    "num_embeds_ada_norm": 1000,
    "num_layers": LAYERS,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 128,
    "positional_embedding_max_pos": [20, 2048, 2048],
    # 10000 in the large models: with four tokens to a side most of its frequencies would be all but constant
    "positional_embedding_theta": 100.0,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "rope_type": "split",
    "share_ff": False,
    "standardization_norm": "rms_norm",
    "text_encoder_norm_type": "per_token_rms",
    "timestep_scale_multiplier": 1000,
    "upcast_attention": False,
    "use_audio_video_cross_attention": True,
    "use_embeddings_connector": True,
    "use_linear_projection": False,
    "use_middle_indices_grid": True,
}

VIDEO_VAE = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "encoder_blocks": [
        ["compress_all_res", {"multiplier": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["compress_all_res", {"multiplier": 1}],
    ],
    "decoder_blocks": [  # the decoder builds them from the last to the first
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 2, "residual": True}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 1, "residual": True}],
        ["res_x", {"num_layers": 1}],
        # 4 x 1 x 2 = 8: versions of the reference disagree on the decoder's first width unless the product is 8
        ["compress_all", {"multiplier": 4, "residual": True}],
        ["res_x", {"num_layers": 1}],
    ],
    "scaling_factor": 1.0,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "use_quant_conv": False,
    "causal_decoder": False,
    "timestep_conditioning": False,
    "normalize_latent_channels": False,
    "encoder_base_channels": 128,
    "decoder_base_channels": 16,
    "spatial_padding_mode": "zeros",
}

AUDIO_VAE = {
    "model": {
        "params": {
            "ddconfig": {
                "double_z": True,
                "mel_bins": 64,
                "z_channels": 8,
                "resolution": 256,
                "downsample_time": False,
                "in_channels": 2,
                "out_ch": 2,
                "ch": 128,
                "ch_mult": [1, 1, 1],
                "num_res_blocks": 0,
                "attn_resolutions": [],
                "dropout": 0.0,
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
            },
            "sampling_rate": 16000,
        }
    },
    "preprocessing": {
        "audio": {
            "sampling_rate": 16000,
            "max_wav_value": 32768.0,
            "duration": 5.12,
            "stereo": True,
            "causal_padding": 3,
        },
        "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
        "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
    },
}

# The plain vocoder of LTX-2 (24 kHz); the bandwidth extension of 2.3 would add nothing to three pure tones.
VOCODER = {
    "upsample_initial_channel": 128,
    "resblock": "1",
    "upsample_rates": [6, 5, 2, 2, 2],
    "resblock_kernel_sizes": [3, 7],
    "upsample_kernel_sizes": [16, 15, 8, 4, 4],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "stereo": True,
}
VOCODER_RATE = 24000

SCHEDULER = {
    "_class_name": "RectifiedFlowScheduler",
    "_diffusers_version": "0.25.1",
    "num_train_timesteps": 1000,
    "shifting": None,
    "base_resolution": None,
    "sampler": "LinearQuadratic",
}

UPSAMPLER = {
    "_class_name": "LatentUpsampler",
    "in_channels": 128,
    "mid_channels": 64,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
}

GEMMA_TEXT = {
    "model_type": "gemma3_text",
    "vocab_size": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 128,
    "query_pre_attn_scalar": 32,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}

FILES = {
    "dev": "ltx-2.3-demo.safetensors",
    "distilled": "ltx-2.3-demo-distilled.safetensors",
    "lora": "ltx-2.3-demo-distilled-lora.safetensors",
    "upsampler": "ltx-2.3-demo-spatial-upscaler-x2.safetensors",
    "gemma": "gemma",
}


def checkpoint_config() -> dict:
    return {
        "transformer": TRANSFORMER,
        "vae": VIDEO_VAE,
        "scheduler": SCHEDULER,
        "audio_vae": AUDIO_VAE,
        "vocoder": VOCODER,
    }
