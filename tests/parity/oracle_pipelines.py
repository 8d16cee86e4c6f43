"""Whole pipelines against recorded runs of the reference, through the public API, with the recorded noise.

Where versions of the reference differ, ours follows 1.2.0; a case whose recording shows an older rule is left out and
says so. Not collected by pytest: `tests.parity.oracle` calls `compare`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video import AudioIn, ImageAt, LTXPipeline
from mlx_video.diffusion.tokens import count, unpatchify
from mlx_video.types import AudioShape, VideoShape

LIMIT = 1e-3
DISTILLED_LIMIT = 5e-4
GUIDANCE = {
    "cfg_scale": 3.0,
    "audio_cfg_scale": 7.0,
    "cfg_rescale": 0.7,
    "stg_scale": 1.0,
    "stg_blocks": (2,),
    "modality_scale": 3.0,
}
OFF = {"stg_scale": 0.0, "modality_scale": 1.0, "cfg_rescale": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "distilled_t2v": {"pipeline": "distilled"},
    "distilled_i2v": {"pipeline": "distilled", "images": [(0, 1.0)]},
    "distilled_i2v_strength0.8_keyframe8_tiled": {
        "pipeline": "distilled",
        "images": [(0, 0.8), (8, 1.0)],
        "since": "1.2",
    },
    "one_stage_t2v": {"pipeline": "dev", **GUIDANCE},
    "one_stage_i2v": {"pipeline": "dev", **GUIDANCE, "images": [(0, 1.0)]},
    "one_stage_cfg_only": {"pipeline": "dev", **OFF, "cfg_scale": 3.0, "audio_cfg_scale": 3.0},
    "two_stage_lora_t2v": {"pipeline": "dev-two-stage", **GUIDANCE},
    "hq_res2s_t2v": {"pipeline": "dev-two-stage-hq"},
    "hq_res2s_i2v": {"pipeline": "dev-two-stage-hq", "images": [(0, 1.0)]},
    "a2v": {
        "pipeline": "dev-two-stage",
        **{k: v for k, v in GUIDANCE.items() if k != "audio_cfg_scale"},
        "sound": 0.25,
        "since": "1.2",
    },
}
"""Our options for each recorded run; `since` marks runs that follow rules which the reference has had since then."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """{case: (relative error of final latents, limit)} for every recorded pipeline of the folder."""
    notes = json.loads(str(reference["__notes__"]))
    newer = "newer source" in str(notes.get("pipelines", ""))
    results = {}
    for name, options in CASES.items():
        if f"pipelines/{name}" not in notes or (options.get("since") and not newer):
            continue
        arguments = {key: _literal(text) for key, text in notes[f"pipelines/{name}"].items()}
        ours, frames, waveform = run(folder, reference, name, arguments, options)
        limit = DISTILLED_LIMIT if options["pipeline"] == "distilled" else LIMIT
        stages = sorted({key.split("/")[2] for key in reference if key.startswith(f"pipelines/{name}/stage")})
        shipped = stages[-1] if options["pipeline"] == "distilled" else "stage1"
        results[f"{name} video latent"] = (
            _error(ours["video"], reference[f"pipelines/{name}/{stages[-1]}/final_video_latent"]),
            limit,
        )
        if f"pipelines/{name}/{shipped}/final_audio_latent" in reference:
            results[f"{name} audio latent"] = (
                _error(ours["audio"], reference[f"pipelines/{name}/{shipped}/final_audio_latent"]),
                limit,
            )
        # 1.0.0 ships another stage's sound in two-stage runs; what is compared is what 1.2.0 ships.
        if "sound" not in options and (newer or shipped == stages[-1]):
            results[f"{name} waveform"] = _error(waveform, reference[f"pipelines/{name}/audio_waveform"]), limit
        results[f"{name} frames more than 1 level apart"] = _apart(frames, reference, name), 1e-3
    return results


def run(
    folder: Path, reference: Mapping[str, np.ndarray], name: str, arguments: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Final latents, frames and waveform of our run of a recorded case."""
    options = {key: value for key, value in options.items() if key != "since"}
    shape = VideoShape(arguments["num_frames"], arguments["height"], arguments["width"], arguments["frame_rate"])
    images = [
        ImageAt(str(folder / "inputs/image.png"), frame, strength, 0) for frame, strength in options.pop("images", ())
    ]
    sound = options.pop("sound", None)
    if options["pipeline"] != "distilled":
        options |= {"negative_prompt": arguments["negative_prompt"], "steps": arguments["num_inference_steps"]}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        clip = pipe.generate(
            prompt=arguments["prompt"],
            height=shape.height,
            width=shape.width,
            num_frames=shape.frames,
            fps=shape.fps,
            image=images,
            audio_file=None if sound is None else AudioIn(str(folder / "inputs/audio.wav"), sound),
            noise=noise_of(reference, f"pipelines/{name}", shape),
            tiling="none",
            **options,
        )
        frames = np.stack(list(clip))
        waveform = clip.waveform
    return {key: np.array(value) for key, value in clip.latents.items()}, frames, waveform


def noise_of(reference: Mapping[str, np.ndarray], case: str, shape: VideoShape) -> dict[str, mx.array]:
    """The recorded draws of a run under our names: the clip's own tokens on the grid, appended ones apart."""
    found: dict[str, mx.array] = {}
    for key in reference:
        stage, _, rest = key.removeprefix(case + "/").partition("/")
        if not (key.startswith(case + "/stage") and (rest.startswith(("noise_video", "noise_audio", "sde_noise")))):
            continue
        _, height, width, _ = reference[f"{case}/{stage}/pixel_shape_frames_height_width_fps"]
        here = shape._replace(height=int(height), width=int(width))
        if rest.startswith("noise_"):
            modality = rest.removeprefix("noise_")
            name = f"{stage}/{modality}"
        else:
            number = int(rest.removeprefix("sde_noise"))
            modality = "video" if number % 2 == 0 else "audio"
            name = f"{stage}/sde/{number // 2}/{modality}"
        grid = here if modality == "video" else AudioShape.of(here)
        tokens = mx.array(reference[key].astype(np.float32))
        found[name] = unpatchify(tokens, grid)
        if tokens.shape[1] > count(grid):
            found[name + "/appended"] = tokens[:, count(grid) :]
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _error(ours: np.ndarray, reference: np.ndarray) -> float:
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _apart(frames: np.ndarray, reference: Mapping[str, np.ndarray], name: str) -> float:
    key = f"pipelines/{name}/video_uint8"
    if key in reference:
        recorded = reference[key]
    else:
        recorded = (reference[f"pipelines/{name}/video_unit_range"] * 255).astype(np.uint8)
    if frames.shape != recorded.shape:
        return float("inf")
    return float(np.mean(np.abs(frames.astype(int) - recorded.astype(int)) > 1))
