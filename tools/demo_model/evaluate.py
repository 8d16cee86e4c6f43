"""Measures a model folder from finished files: `python -m tools.demo_model.evaluate --model FOLDER --clips 60`.

Held-out prompts go through the package's Python API into .mp4 files; frames and sound are read back from the files and
measured by measure.py. Modes: "t2v" for each pipeline; "i2v" (the first frame is given as a picture); "a2v" (a sound is
given); "upscale" and "refine" (a drawn clip, saved as .mp4, at twice the size) and "picture" (one frame of it as .png).
The result is a table, and results.json and a picture of all clips beside the files.

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
# A drawn clip has no sound, and a picture no motion.
VISIBLE = {mode: ("background", "colour", "motion", "shape") for mode in ("upscale", "refine")}
VISIBLE["picture"] = ("background", "colour", "shape")
ENLARGING = tuple(VISIBLE)


def cases(count: int, seed: int = 5) -> list[tuple[tuple, str]]:
    """(meaning, sentence), no (shape, colour, motion, background) of which was trained on; none comes twice before all
    have come."""
    import random

    rng = random.Random(seed)
    picked: list = []
    while len(picked) < count:
        picked += rng.sample(world.HELD_OUT, min(count - len(picked), len(world.HELD_OUT)))
    meanings = [(*v, rng.randrange(3)) for v in picked]
    return [(m, prompts.sentence(m, rng)) for m in meanings]


def read(path: str) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Frames (F, H, W, 3) uint8, mono sound (samples,) or None, and its rate."""
    import av

    if path.endswith(".png"):
        from PIL import Image

        return np.asarray(Image.open(path).convert("RGB"))[None], None, 0
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
    Image.fromarray(drawn(meaning, number, 1, size)[0]).save(picture)
    tone = world.tone(meaning, int(scene.phase[0]), 5 * 24000, 24000).numpy()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(24000)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    return picture, sound


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a.astype(float) - b) ** 2).mean() / 255**2 + 1e-12))


def jump(frames: np.ndarray) -> float:
    """The second frame's difference from the first, in the median difference of two frames."""
    steps = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    return float(steps[0] / max(np.median(steps), 1e-6))


def drawn(meaning, number: int, frames: int, size: int) -> np.ndarray:
    """The frames (F, H, W, 3) uint8 that the world has for a meaning."""
    scene = world.draw_scenes([meaning], np.random.default_rng(number))
    pixels = world.render(scene, frames, size)[0].permute(1, 2, 3, 0)
    return ((pixels + 1) * 127.5).round().byte().cpu().numpy()


def enlarge(pipe, meaning, sentence: str, folder: str, number: int, asked) -> tuple[str, dict]:
    """A drawn clip or picture through the upscaler: the file, and how near it is to the scene drawn at twice the size."""
    from PIL import Image
    from mlx_video.media.video import write_video

    frames = 1 if asked.mode == "picture" else asked.frames
    small, kind = drawn(meaning, number, frames, asked.size), "png" if frames == 1 else "mp4"
    source, path = (os.path.join(folder, f"{number:03d}{part}.{kind}") for part in ("-small", ""))
    if frames == 1:
        Image.fromarray(small[0]).save(source)
    else:
        write_video(source, small, world.FPS)
    refine = {"refine": True, "prompt": sentence, "seed": asked.seed + number} if asked.mode == "refine" else {}
    pipe.upscale(source, **refine).save(path)
    return path, {"decibels": decibels(read(path)[0], drawn(meaning, number, frames, 2 * asked.size))}


def generate(pipe, meaning, sentence: str, folder: str, number: int, asked) -> tuple[str, dict]:
    """A clip from a prompt and what the mode gives: the file, and how its first frame follows a given picture."""
    given: dict = {}
    if asked.mode != "t2v":
        picture, sound = inputs(meaning, folder, number, asked.size)
        given = {"image": picture} if asked.mode == "i2v" else {"audio_file": sound}
    clip = pipe.generate(
        prompt=sentence, pipeline=asked.pipeline, height=asked.size, width=asked.size, num_frames=asked.frames,
        seed=asked.seed + number, audio=True, **given,
    )  # fmt: skip
    path = os.path.join(folder, f"{number:03d}.mp4")
    clip.save(path)
    if asked.mode != "i2v":
        return path, {}
    pixels = read(path)[0]
    return path, {"decibels": decibels(pixels[0], drawn(meaning, number, 1, asked.size)[0]), "jump": jump(pixels)}


def summary(rows: list[dict], asked, seconds: float) -> dict:
    enlarged = asked.mode in ENLARGING
    judged = (*VISIBLE.get(asked.mode, ATTRIBUTES), "all")
    mean = lambda key: round(float(np.mean([r[key] for r in rows if r.get(key) is not None] or [np.nan])), 3)
    by_shape = {
        name: round(float(np.mean([r["shape"] for r in rows if r["meaning"][0] == i] or [np.nan])), 2)
        for i, name in enumerate(world.SHAPES)
    }
    extra = {key: mean(key) for key in ("decibels", "jump") if any(key in r for r in rows)}
    return {
        "pipeline": asked.pipeline,
        "mode": asked.mode,
        "size": asked.size,
        "frames": asked.frames,
        "clips": len(rows),
        **{key: mean(key) for key in judged},
        "shapes": by_shape,
        "beep_to_contact_s": None if enlarged else mean("lag"),
        **extra,
        "seconds_per_clip": round(seconds / max(len(rows), 1), 1),
    }


def evaluate(model: str, out: str, asked) -> dict:
    """`asked` has clips, pipeline, mode, size, frames, seed and cases, as the command has them."""
    from PIL import Image
    from mlx_video import LTXPipeline

    os.makedirs(out, exist_ok=True)
    rows, strips, started = [], [], time.time()
    work = enlarge if asked.mode in ENLARGING else generate
    with LTXPipeline.from_pretrained(model) as pipe:
        for number, (meaning, sentence) in enumerate(cases(asked.clips, asked.cases)):
            path, found = work(pipe, meaning, sentence, out, number, asked)
            pixels, sound, rate = read(path)
            row = judge(meaning, pixels, sound, rate)
            row["all"] = all(row[k] for k in VISIBLE.get(asked.mode, ATTRIBUTES))
            rows.append({"prompt": sentence, "meaning": list(meaning), **row, **found})
            strips.append(np.concatenate(pixels[:: max(1, len(pixels) // 5)][:6], 1)[::2, ::2])
    result = summary(rows, asked, time.time() - started)
    with open(os.path.join(out, "results.json"), "w") as file:
        json.dump({**result, "rows": rows}, file, indent=1)
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    Image.fromarray(np.concatenate([np.concatenate(strips[i : i + 2], 1) for i in range(0, len(strips), 2)])).save(
        os.path.join(out, "clips.png")
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder, or demo")
    parser.add_argument("--out", default="demo-evaluation")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--pipeline", choices=(*PIPELINES, "all"), default="distilled")
    parser.add_argument("--mode", choices=("t2v", "i2v", "a2v", *ENLARGING), default="t2v")
    parser.add_argument("--size", type=int, default=256, help="of the clip; of the source where it is enlarged")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--seed", type=int, default=0, help="of the first clip's noise")
    parser.add_argument("--cases", type=int, default=5, help="seed that the prompts are drawn with")
    asked = parser.parse_args()
    for name in PIPELINES if asked.pipeline == "all" else (asked.pipeline,):
        asked.pipeline = name
        folder = os.path.join(asked.out, f"{name}-{asked.mode}")
        print(json.dumps(evaluate(asked.model, folder, asked)), flush=True)


if __name__ == "__main__":
    main()
