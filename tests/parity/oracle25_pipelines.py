"""Whole LTX-2.5 pipelines against recorded runs of the reference, through the public API, with the recorded noise.

Not collected by pytest: `tests.parity.oracle` calls `compare`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video import ImageAt, LTXPipeline
from mlx_video.types import VideoShape
from tests.parity.oracle_pipelines import DISTILLED_LIMIT, GUIDANCE, LIMIT, _apart, _error, noise_of

HQ = {"cfg_scale": 3.0, "cfg_rescale": 0.45, "audio_cfg_scale": 7.0, "audio_cfg_rescale": 1.0, "modality_scale": 3.0}
CASES: dict[str, dict[str, Any]] = {
    "distilled_t2v": {},
    "distilled_i2v": {"images": [(0, 1.0)]},
    "distilled_i2v_strength0.8_keyframe8": {"images": [(0, 0.8), (8, 1.0)]},
    "distilled_generated_keyframes2_diffusion_vae": {"num_generated_keyframes": 2, "video_decoder": "diffusion"},
    "distilled_t2v_ancestral_stage2": {"reference_version": "1.4"},
    "one_stage_t2v": {"pipeline": "dev", **GUIDANCE},
    "one_stage_i2v": {"pipeline": "dev", **GUIDANCE, "images": [(0, 1.0)]},
    "two_stage_lora_t2v": {"pipeline": "dev-two-stage", **GUIDANCE},
    "two_stage_lora_i2v": {"pipeline": "dev-two-stage", **GUIDANCE, "images": [(0, 1.0)]},
    "hq_res2s_t2v": {"pipeline": "dev-two-stage-hq"},
    "hq_res2s_i2v": {"pipeline": "dev-two-stage-hq", "images": [(0, 1.0)]},
}
STEPS = 4
"""Of the guided runs."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """{case: (relative error of final latents, sound and frames, limit)} for every recorded pipeline."""
    notes = json.loads(str(reference["__notes__"]))
    results = {}
    for name, options in CASES.items():
        distilled = "pipeline" not in options
        latents, frames, waveform = _run(folder, reference, name, options, notes["pipelines/negative_prompt"])
        limit = DISTILLED_LIMIT if distilled else LIMIT
        start = f"pipelines/{name}"
        for modality in ("video", "audio"):
            recorded = reference[f"{start}/{modality}_latent"]
            results[f"{name} {modality} latent"] = _error(latents[modality], recorded), limit
        results[f"{name} waveform"] = _error(waveform, reference[f"{start}/audio_waveform"]), limit
        results[f"{name} frames more than 1 level apart"] = _apart(frames, reference, name), 1e-3
    return results


def _run(
    folder: Path, reference: Mapping[str, np.ndarray], name: str, options: dict[str, Any], negative: str
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Final latents, frames and waveform of our run of a recorded case."""
    options, case = dict(options), f"pipelines/{name}"
    last = max(key.split("/")[2] for key in reference if key.startswith(f"{case}/stage"))
    geometry = reference[f"{case}/{last}/pixel_shape_frames_height_width_fps"]
    shape = VideoShape(*map(int, geometry[:3]), float(geometry[3]))
    images = [ImageAt(str(folder / "inputs/image.png"), at, strength, 0) for at, strength in options.pop("images", ())]
    noise = noise_of(reference, case, shape)
    if options.get("video_decoder"):
        noise["decode/video"] = reference[f"{case}/decode_noise"]
    if "pipeline" in options:
        options |= {"negative_prompt": negative, "steps": STEPS}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        clip = pipe.generate(
            prompt=str(reference["text/short/prompt"]),
            height=shape.height,
            width=shape.width,
            num_frames=shape.frames,
            fps=shape.fps,
            image=images,
            noise=noise,
            tiling="none",
            **options,
        )
        frames = np.stack(list(clip))
        waveform = clip.waveform
    return {key: np.array(value) for key, value in clip.latents.items()}, frames, waveform
