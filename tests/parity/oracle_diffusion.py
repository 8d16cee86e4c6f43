"""Compares our sampling with recorded outputs of the reference: schedules, positions, states, guidance, loops, and the
pipelines' own runs replayed with the recorded predictions in place of a network. Not collected by pytest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.diffusion import guidance as G
from mlx_video.diffusion import schedules as S
from mlx_video.diffusion.conditioning import AppendKeyframe, Freeze, ReplaceFrame, initial_state, noised, start
from mlx_video.diffusion.denoise import blend
from mlx_video.diffusion.noise import given
from mlx_video.diffusion.reductions import standardise
from mlx_video.diffusion.samplers import SAMPLERS, _renoise, res_2s_weights
from mlx_video.diffusion.tokens import patchify, positions, unpatchify
from mlx_video.types import AudioShape, Guidance, State, VideoShape

Reference = Mapping[str, np.ndarray]
Case = tuple[str, float, float]


def compare(folder: Path, reference: Reference) -> dict[str, tuple[float, float]]:
    """Case name -> (relative error, limit). `folder` is not needed: no weights take part."""
    notes = json.loads(str(reference["__notes__"]))
    newest = "1.0.0" not in notes[""]["reference"]
    cases: dict[str, tuple[float, float]] = {}
    for part in (_schedules, _steps, _guiders, _positions, _loops):
        for name, error, limit in part(reference):
            cases[name] = (error, limit)
    for name, error, limit in [*_conditioning(reference, newest), *_pipelines(reference, notes, newest)]:
        cases[name] = (error, limit)
    return cases


def _error(ours, reference) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def _worst(pairs) -> float:
    return max(_error(a, b) for a, b in pairs)


def _schedules(ref: Reference) -> Iterator[Case]:
    # The reference's beta schedule is recorded, too; no pipeline of either package takes it, and ours does not have it.
    for key in (k for k in ref if k.startswith("schedulers/") and not k.startswith("schedulers/beta/")):
        kind, _, case = key.removeprefix("schedulers/").partition("/")
        if kind.startswith("distilled"):
            ours = S.SCHEDULES["distilled" if kind.endswith("1") else "refine"](None)
        else:
            steps = int(re.match(r"steps(\d+)", case)[1])
            make: Callable = {"ltx2": S.shifted_sigmas, "linear_quadratic": S.linear_quadratic_sigmas}[kind]
            options: dict = {}
            if tokens := re.search(r"tokens(\d+)", case):
                options["tokens"] = int(tokens[1])
            if case.endswith("nostretch"):
                options["terminal"] = None
            if shifts := re.search(r"shift([\d.]+)_([\d.]+)_terminal([\d.]+)", case):
                options |= dict(zip(("max_shift", "base_shift", "terminal"), map(float, shifts.groups()), strict=True))
            ours = make(steps, **options)
        yield key, _error(ours, ref[key]), 1e-6


def _steps(ref: Reference) -> Iterator[Case]:
    get = lambda name: mx.array(ref[f"steps/{name}"].astype(np.float32))  # noqa: E731
    x, x0, noise, sigmas = get("sample"), get("denoised"), get("noise"), ref["steps/sigmas"].tolist()
    for i in range(3):
        step = next(SAMPLERS["euler"].run({"video": x}, sigmas[i : i + 2], lambda *_: {"video": x0}))
        yield f"steps/euler/{i}", _error(step.x["video"], ref[f"steps/euler/step{i}"]), 1e-6
    # Our step standardises the noise it draws; the recorded one was used as it is, so it is compared by its two parts.
    for i in range(2):
        injected = _renoise({"video": x}, {"video": x0}, sigmas[i], sigmas[i + 1], 0.5, lambda *_: noise, 0)["video"]
        alpha, down, up = ref[f"steps/res2s/coeff{i}"].tolist()
        sample, det = np.float64(x), np.float64(x0)
        eps = (sample - det) / (sigmas[i] - sigmas[i + 1])
        wanted = alpha * (sample - sigmas[i] * eps + down * eps) + up * np.float64(standardise(noise))
        yield f"steps/res2s/{i}", _error(injected, wanted), 1e-6
    yield (
        "steps/res2s/normalised_noise",
        _error(standardise(get("res2s/raw_noise")), ref["steps/res2s/normalised_noise"]),
        1e-6,
    )
    h = ref["steps/res2s/h"]
    ours = [(-np.expm1(-h_ / 2), *res_2s_weights(h_)) for h_ in h]
    yield "steps/res2s/a21_b1_b2", _error(ours, ref["steps/res2s/a21_b1_b2"] * h[:, None]), 1e-6
    state = State(x, x0, get("post_process/mask"), x)
    yield (
        "steps/post_process",
        _error(blend({"video": state})({"video": x})["video"], ref["steps/post_process/out"]),
        1e-6,
    )


def _guiders(ref: Reference) -> Iterator[Case]:
    names = {G.POSITIVE: "cond", G.NEGATIVE: "uncond", G.PERTURBED: "perturbed", G.ISOLATED: "isolated"}
    x0 = {ours: mx.array(ref[f"guiders/{theirs}"]) for ours, theirs in names.items()}
    full = {"stg_scale": 1.0, "stg_blocks": (2,), "rescale": 0.7, "modality_scale": 3.0}
    for name, options in {
        "cfg_scale3": {"cfg_scale": 3.0},
        "cfg_star_scale3": {"cfg_scale": 3.0, "cfg_star": True},
        "stg_scale1.5": {"stg_scale": 1.5, "stg_blocks": (2,)},
        "apg_scale3_eta0.5_norm5": {"cfg_scale": 3.0, "apg_eta": 0.5, "apg_threshold": 5.0},
        "multimodal/cfg3": {"cfg_scale": 3.0},
        "multimodal/cfg3_rescale0.7": {"cfg_scale": 3.0, "rescale": 0.7},
        "multimodal/stg1": {"stg_scale": 1.0, "stg_blocks": (2,)},
        "multimodal/mod3": {"modality_scale": 3.0},
        "multimodal/video_default": {"cfg_scale": 3.0, **full},
        "multimodal/audio_default": {"cfg_scale": 7.0, **full},
        "multimodal/hq_video": {"cfg_scale": 3.0, "rescale": 0.45, "modality_scale": 3.0},
        "multimodal/hq_audio": {"cfg_scale": 7.0, "rescale": 1.0, "modality_scale": 3.0},
    }.items():
        yield f"guiders/{name}", _error(G.combine(Guidance(**options), x0), ref[f"guiders/{name}"]), 1e-6


def _positions(ref: Reference) -> Iterator[Case]:
    for key in (k for k in ref if k.startswith(("positions/video/", "positions/audio/"))):
        sizes = {k: float(v) for k, v in re.findall(r"(f|h|w|fps)(\d+(?:\.\d+)?)", key.rpartition("/")[2])}
        clip = VideoShape(int(sizes["f"]), int(sizes.get("h", 64)), int(sizes.get("w", 64)), sizes["fps"])
        shape = clip if "/video/" in key else AudioShape.of(clip)
        yield key, _error(positions(shape), ref[key]), 1e-6
    rows = ref["positions/audio_latent_frames/frames_fps_count"]
    ours = [AudioShape.of(VideoShape(int(f), 64, 64, fps)).frames for f, fps, _ in rows]
    yield "positions/audio_latent_frames", _error(ours, rows[:, 2]), 1e-6
    for kind, shape in (("video", VideoShape(17, 64, 96, 24.0)), ("audio", AudioShape(5))):
        latent, tokens = ref[f"positions/patchify/{kind}_latent"], ref[f"positions/patchify/{kind}_tokens"]
        back = unpatchify(mx.array(tokens), shape)
        yield f"positions/patchify/{kind}", _worst([(patchify(mx.array(latent)), tokens), (back, latent)]), 1e-6


def _conditioning(ref: Reference, newest: bool) -> Iterator[Case]:
    get = lambda name: mx.array(ref[f"conditioning/{name}"])  # noqa: E731
    clip = VideoShape(17, 64, 96, 24.0)
    first, key, initial = get("first_frame_latent"), get("keyframe_latent"), get("initial_latent")
    for name, items in {
        "first_frame_strength1": [ReplaceFrame(first)],
        "first_frame_strength0.8": [ReplaceFrame(first, strength=0.8)],
        "latent_index1": [ReplaceFrame(key, latent_frame=1)],
        "keyframe8_strength0.9": [AppendKeyframe(key, 8, 0.9, single=newest)],
        "keyframe0": [AppendKeyframe(key, 0, single=newest)],
        "first_and_keyframe16": [ReplaceFrame(first), AppendKeyframe(key, 16, single=newest)],
    }.items():
        state = initial_state(clip, initial)
        for item in items:
            state = item.apply(state, clip)
        fields = ["mask", "positions", "clean"] + (["latent"] if newest else [])
        pairs = [(getattr(state, f), ref[f"conditioning/{name}/{f}"]) for f in fields]
        yield f"conditioning/{name}", _worst(pairs), 1e-6
    if newest:
        state = ReplaceFrame(first, strength=0.8).apply(initial_state(clip, initial), clip)
        for scale in ("1", "0.909375"):
            ours = noised(state, get(f"noiser/scale{scale}_noise"), float(scale)).latent
            yield f"conditioning/noiser/{scale}", _error(ours, ref[f"conditioning/noiser/scale{scale}_latent"]), 1e-6
    state = AppendKeyframe(key, 0).apply(initial_state(clip, initial), clip)
    ours = unpatchify(state.latent, clip)
    yield "conditioning/cleared_and_unpatchified", _error(ours, ref["conditioning/cleared_and_unpatchified"]), 1e-6


def _loops(ref: Reference) -> Iterator[Case]:
    get = lambda name: mx.array(ref[f"loops/{name}"])  # noqa: E731
    states = {
        m: State(get(f"{m}_latent"), get(f"{m}_clean"), get(f"{m}_mask"), get(f"{m}_mask")) for m in ("video", "audio")
    }
    target = {m: get(f"{m}_target") for m in states}
    keep = blend(states)
    noise = ref["loops/res2s_noise"].astype(np.float32)

    def denoise(x, sigma, step):
        return keep({m: 0.6 * mx.tanh(x[m]) + (1.0 - sigma) * target[m] + 0.1 for m in x})

    def draw(k, modality):
        return mx.array(noise[2 * k + (modality == "audio")])

    names = {"euler": "euler", "gradient_estimating": "gradient_estimating_euler", "res2s_legacy": "res_2s"}
    for key in (k for k in ref if k.startswith("loops/sigmas/")):
        case, sigmas = key.rpartition("/")[2], ref[key].tolist()
        for theirs, ours in names.items():
            x = {m: s.latent for m, s in states.items()}
            for step in SAMPLERS[ours].run(x, sigmas, denoise, draw=draw, blend=keep):
                x = step.x
            yield f"loops/{theirs}/{case}", _worst((x[m], ref[f"loops/{theirs}/{case}/{m}"]) for m in x), 1e-5


def _pipelines(ref: Reference, notes: Mapping, newest: bool) -> Iterator[Case]:
    stages = sorted({m[0] for k in ref if (m := re.match(r"pipelines/[^/]+/stage\d+", k))})
    for stage in stages:
        name = stage.split("/")[1]
        if not newest and ("i2v_strength" in name or "keyframe" in name or name == "a2v"):
            continue  # what changed since 1.0.0: single-frame guides, the noiser, sigma of frozen sound
        yield from _stage(ref, notes, stage, name)


def _stage(ref: Reference, notes: Mapping, stage: str, name: str) -> Iterator[Case]:
    """One stage: its first state from the recorded draws, the first guided prediction, every step of its sampler."""
    frames, height, width, fps = ref[f"{stage}/pixel_shape_frames_height_width_fps"].tolist()
    clip = VideoShape(int(frames), int(height), int(width), fps)
    shapes = {"video": clip, "audio": AudioShape.of(clip)}
    states = {
        m: _first_state(ref, notes, stage, name, m, shape) for m, shape in shapes.items() if f"{stage}/noise_{m}" in ref
    }
    fields = {"latent": "latent", "denoise_mask": "mask", "clean_latent": "clean", "positions": "positions"}
    pairs = [(getattr(s, ours), ref[f"{stage}/start/{m}_{f}"]) for m, s in states.items() for f, ours in fields.items()]
    yield f"{stage}/start", _worst(pairs), 1e-6
    if f"{stage}/eval00/network1/video_denoised" in ref:
        yield f"{stage}/guidance", _guided(ref, notes, stage, name, list(states)), 1e-6
    yield f"{stage}/sampler", _replay(ref, stage, states), 1e-5


def _first_state(ref: Reference, notes: Mapping, stage: str, name: str, modality: str, shape) -> State:
    conditions, scale = [], float(ref[f"{stage}/noise_scale"])
    latent = ref.get(f"{stage}/initial_{modality}_latent")
    latent = None if latent is None else mx.array(latent)
    if modality == "video":
        asked = re.findall(r"frame_idx=(\d+), strength=([\d.]+)", notes[f"pipelines/{name}"]["images"])
        for i, (frame, strength) in enumerate(asked):
            number = i + (int(stage[-1]) - 1) * len(asked)
            picture = mx.array(ref[f"pipelines/{name}/image_conditioning{number}"])
            if frame == "0" and not name.startswith("keyframe"):
                conditions.append(ReplaceFrame(picture, strength=float(strength)))
            else:
                conditions.append(AppendKeyframe(picture, int(frame), float(strength)))
    elif name == "a2v":
        conditions.append(Freeze(latent))
    tokens = mx.array(ref[f"{stage}/noise_{modality}"])
    own = shape.tokens if modality == "video" else shape.frames
    draws = {"x": unpatchify(tokens, shape)} | ({"x/appended": tokens[:, own:]} if tokens.shape[1] > own else {})
    return start(shape, given(draws), "x", conditions=conditions, latent=latent, scale=scale)


def _guided(ref: Reference, notes: Mapping, stage: str, name: str, modalities: list[str]) -> float:
    guidance = {}
    for m in modalities:
        text = notes[f"pipelines/{name}"].get(f"{m}_guider_params", "")
        value = dict(re.findall(r"(\w+)=(\[.*?\]|[\d.]+)", text))
        guidance[m] = Guidance(
            cfg_scale=float(value.get("cfg_scale", 1)),
            stg_scale=float(value.get("stg_scale", 0)),
            stg_blocks=tuple(json.loads(value.get("stg_blocks", "[]"))),
            rescale=float(value.get("rescale_scale", 0)),
            modality_scale=float(value.get("modality_scale", 1)),
        )
    passes = list(G.plan(guidance, modalities))
    recorded = sum(f"{stage}/eval00/network{i}/video_denoised" in ref for i in range(5))
    if len(passes) != recorded:
        return float("inf")
    return _worst(
        (
            G.combine(
                guidance[m], {p: mx.array(ref[f"{stage}/eval00/network{i}/{m}_denoised"]) for i, p in enumerate(passes)}
            ),
            ref[f"{stage}/eval00/{m}_denoised"],
        )
        for m in modalities
    )


def _replay(ref: Reference, stage: str, states: dict[str, State]) -> float:
    """The worst relative error of any state that our sampler hands to the denoiser, and of the stage's result."""
    worst, number, keep = [0.0], [0], blend(states)
    stochastic = f"{stage}/sde_noise000" in ref

    def denoise(x, sigma, step):
        at = f"{stage}/eval{number[0]:02d}"
        number[0] += 1
        worst.append(_error(sigma, ref[f"{at}/sigma"]))
        worst.extend(_error(x[m], ref[f"{at}/{m}_in"]) for m in x)
        return keep({m: mx.array(ref[f"{at}/{m}_denoised"]) for m in x})

    def draw(k, modality):
        return mx.array(ref[f"{stage}/sde_noise{2 * k + (modality == 'audio'):03d}"].astype(np.float32))

    x = {m: s.latent for m, s in states.items()}
    sampler = SAMPLERS["res_2s" if stochastic else "euler"]
    sigmas = ref[f"{stage}/sigmas"].tolist()
    for step in sampler.run(x, sigmas, denoise, draw=draw, blend=keep):
        x = step.x
    if number[0] != sampler.count(sigmas):
        return float("inf")
    frames, height, width, fps = ref[f"{stage}/pixel_shape_frames_height_width_fps"].tolist()
    clip = VideoShape(int(frames), int(height), int(width), fps)
    for m, shape in {"video": clip, "audio": AudioShape.of(clip)}.items():
        if f"{stage}/final_{m}_latent" in ref:
            worst.append(_error(unpatchify(x[m], shape), ref[f"{stage}/final_{m}_latent"]))
    return max(worst)
