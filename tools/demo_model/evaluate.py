"""Measures a model folder from finished .mp4 files: `python -m tools.demo_model.evaluate --model FOLDER --clips 60`.

Held-out prompts go through the package's Python API into files; frames and sound are read back from the files and
measured by measure.py. Modes: text to video for each pipeline, "i2v" (the first frame is given as a picture) and "a2v"
(a sound is given). The result is a table, and results.json and a picture of all clips beside the files.

It does not know how a model was made.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np

from . import measure, prompts, world

PIPELINES = ("distilled", "dev", "dev-two-stage", "dev-two-stage-hq")
ATTRIBUTES = ("background", "colour", "motion", "shape", "pitch")


def cases(count: int, seed: int = 5) -> list[tuple[tuple, str]]:
    """(meaning, sentence), no (shape, colour, motion, background) of which was trained on."""
    import random

    rng = random.Random(seed)
    picked = rng.sample(world.HELD_OUT, min(count, len(world.HELD_OUT)))
    meanings = [(*v, rng.randrange(3)) for v in picked]
    return [(m, prompts.sentence(m, rng)) for m in meanings]


def read(path: str) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Frames (F, H, W, 3) uint8, mono sound (samples,) or None, and its rate."""
    import av

    with av.open(path) as file:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    with av.open(path) as file:
        if not file.streams.audio:
            return frames, None, 0
        rate = file.streams.audio[0].rate
        pieces = [f.to_ndarray().astype(np.float64) for f in file.decode(audio=0)]
        planar = file.streams.audio[0].format.is_planar
        channels = file.streams.audio[0].channels
    sound = np.concatenate(pieces, 1)
    sound = sound.mean(0) if planar else sound.reshape(-1, channels).mean(1)
    return frames, sound / (32768 if np.abs(sound).max() > 2 else 1), rate


def judge(meaning, frames, sound, rate) -> dict:
    seen = measure.look(frames)
    heard = measure.listen(sound, rate) if sound is not None else {"pitch": None, "beeps": []}
    right = {
        "shape": seen["shape"] == meaning[0],
        "colour": seen["colour"] == meaning[1],
        "motion": seen["motion"] == meaning[2],
        "background": seen["background"] == meaning[3],
        "pitch": heard["pitch"] == meaning[4],
    }
    out = {k: bool(v) for k, v in right.items()}
    out["all"] = all(out.values())
    out["lag"] = measure.lag(seen["contacts"], heard["beeps"])
    out["seen"] = {k: seen[k] for k in ("shape", "colour", "motion", "background", "overlap")}
    out["frequency"] = heard.get("frequency")
    return out


def inputs(meaning, folder: str, number: int, size: int) -> tuple[str, str]:
    """A picture of frame 0 and a sound file as the world would make them."""
    import wave

    from PIL import Image

    scene = world.draw_scenes([meaning], np.random.default_rng(number))
    picture, sound = os.path.join(folder, f"{number:03d}.png"), os.path.join(folder, f"{number:03d}.wav")
    pixels = ((world.render(scene, 1, size)[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    Image.fromarray(pixels).save(picture)
    tone = world.tone(meaning, int(scene.phase[0]), 2 * 24000, 24000).numpy()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(24000)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    return picture, sound


def evaluate(model: str, out: str, count: int, pipeline: str, mode: str, size: int, frames: int, seed: int) -> dict:
    from PIL import Image
    from mlx_video import LTXPipeline

    os.makedirs(out, exist_ok=True)
    rows, strips, started = [], [], time.time()
    with LTXPipeline.from_pretrained(model) as pipe:
        for number, (meaning, sentence) in enumerate(cases(count)):
            given: dict = {}
            if mode != "t2v":
                picture, sound = inputs(meaning, out, number, size)
                given = {"image": picture} if mode == "i2v" else {"audio_file": sound}
            clip = pipe.generate(
                prompt=sentence,
                pipeline=pipeline,
                height=size,
                width=size,
                num_frames=frames,
                seed=seed + number,
                audio=True,
                **given,
            )
            path = os.path.join(out, f"{number:03d}.mp4")
            clip.save(path)
            pixels, wave, rate = read(path)
            row = judge(meaning, pixels, wave, rate)
            if mode == "i2v":
                target = np.asarray(Image.open(picture), dtype=float)
                row["first_frame_db"] = float(-10 * np.log10(((pixels[0] - target) ** 2).mean() / 255**2 + 1e-12))
            rows.append({"prompt": sentence, "meaning": list(meaning), **row})
            strips.append(np.concatenate(pixels[:: max(1, frames // 5)][:6], 1)[::2, ::2])
    accuracy = {k: round(float(np.mean([r[k] for r in rows])), 3) for k in (*ATTRIBUTES, "all")}
    lags = [r["lag"] for r in rows if r["lag"] is not None]
    result = {
        "pipeline": pipeline,
        "mode": mode,
        "size": size,
        "frames": frames,
        "clips": len(rows),
        **accuracy,
        "beep_to_contact_s": round(float(np.mean(lags)), 3) if lags else None,
        "seconds_per_clip": round((time.time() - started) / max(len(rows), 1), 1),
    }
    if mode == "i2v":
        result["first_frame_db"] = round(float(np.mean([r["first_frame_db"] for r in rows])), 1)
    with open(os.path.join(out, "results.json"), "w") as file:
        json.dump({**result, "rows": rows}, file, indent=1)
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    Image.fromarray(np.concatenate([np.concatenate(strips[i : i + 2], 1) for i in range(0, len(strips), 2)])).save(
        os.path.join(out, "clips.png")
    )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--out", default="demo-evaluation")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--pipeline", choices=(*PIPELINES, "all"), default="distilled")
    parser.add_argument("--mode", choices=("t2v", "i2v", "a2v"), default="t2v")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    for name in PIPELINES if a.pipeline == "all" else (a.pipeline,):
        folder = os.path.join(a.out, f"{name}-{a.mode}")
        print(json.dumps(evaluate(a.model, folder, a.clips, name, a.mode, a.size, a.frames, a.seed)), flush=True)
