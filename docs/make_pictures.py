"""Makes the strips of this folder with the demo model, whose weights are in the package: a minute on one CPU core.

    python docs/make_pictures.py [FOLDER]

What `mlx_video.doctor` says of this machine becomes doctor.svg. Each strip is eight moments of a clip, from left to
right; pictures that were given stand before it, framed, and a sound that was given lies beneath it as its waveform. Of
the previews there are three strips, one above the other, after the first step, the eighth and the last; beneath them
the same moments of the finished clip.
"""

import html
import math
import subprocess
import sys
import tempfile
import textwrap
import wave
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mlx_video import ImageAt, LTXPipeline

SIDE, MOMENTS, FRAMES, RATE = 112, 8, 33, 24_000
COLOURS = {"red": (225, 40, 40), "yellow": (240, 220, 40), "green": (40, 180, 60), "purple": (170, 50, 205)}
GROUNDS = {"black": (14, 14, 16), "white": (236, 236, 234), "gray": (122, 122, 122), "blue": (30, 55, 165)}
COLUMNS, VERDICTS = 110, {"ok": "#7ec699", "look": "#e5c07b", "wrong": "#e06c75"}
PAPER, INK = (255, 255, 255), (40, 60, 90)


def draw(shape: str, colour: str, ground: str, x: float, y: float, radius: float = 0.21) -> Image.Image:
    """A picture of the demo's world, 256 x 256; lengths are shares of its side."""
    size = 1024
    picture = Image.new("RGB", (size, size), GROUNDS[ground])
    tips = {"circle": 0, "square": 4, "triangle": 3, "star": 10}[shape]
    pen, points = ImageDraw.Draw(picture), []
    for k in range(tips):
        angle = 2 * math.pi * (k + (0.5 if shape == "square" else 0)) / tips - math.pi / 2
        reach = radius * {"square": 1.19, "triangle": 1.2}.get(shape, 1.2 if k % 2 == 0 else 0.48)
        points.append((size * (x + reach * math.cos(angle)), size * (y + reach * math.sin(angle))))
    box = [size * (x - radius), size * (y - radius), size * (x + radius), size * (y + radius)]
    pen.polygon(points, fill=COLOURS[colour]) if points else pen.ellipse(box, fill=COLOURS[colour])
    return picture.resize((256, 256), Image.Resampling.LANCZOS)


def beeps(path: Path, first: float, period: float = 0.5, pitch: float = 1200) -> np.ndarray:
    """A WAV of short beeps, the first after `first` seconds; its samples."""
    since = np.mod(np.arange(int(RATE * FRAMES / 24)) / RATE - first, period)
    fade = np.minimum(since / 0.008, 1) * np.exp(-6 * since) * np.clip((0.16 - since) / 0.03, 0, 1)
    samples = 0.5 * np.sin(2 * math.pi * pitch * np.arange(len(since)) / RATE) * fade
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return samples


def strip(frames: list[np.ndarray], before: list[Image.Image], sound: np.ndarray | None) -> Image.Image:
    """The clip's moments side by side, what was given before them or beneath them."""
    gap, low = 12, 28 if sound is not None else 0
    left = sum(SIDE + gap for _ in before)
    sheet = Image.new("RGB", (left + MOMENTS * SIDE, SIDE + low), PAPER)
    for place, picture in enumerate(before):
        sheet.paste(picture.resize((SIDE, SIDE)), (place * (SIDE + gap), 0))
        ImageDraw.Draw(sheet).rectangle(
            [place * (SIDE + gap), 0, place * (SIDE + gap) + SIDE - 1, SIDE - 1], outline=INK, width=3
        )
    for place in range(MOMENTS):
        frame = frames[round(place * (len(frames) - 1) / (MOMENTS - 1))]
        sheet.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left + place * SIDE, 0))
    if sound is not None:
        pen, width = ImageDraw.Draw(sheet), MOMENTS * SIDE
        for column, part in enumerate(np.array_split(sound, width)):
            half = max(float(np.abs(part).max()) * (low - 6), 0.5)
            middle = SIDE + low / 2
            pen.line([left + column, middle - half, left + column, middle + half], fill=INK)
    return sheet


def previews(pipe: LTXPipeline) -> Image.Image:
    """What --preview shows of a run, and what came of it."""
    shown: list[np.ndarray] = []
    clip = pipe.generate(
        prompt="a yellow triangle rising on a black background", num_frames=8 * MOMENTS - 7, audio=False,
        on_picture=lambda progress, frames: shown.append(frames),
    )  # fmt: skip
    rows = [shown[0], shown[7], shown[-1], np.stack(list(clip))[::8]]
    whole = np.concatenate([np.concatenate([resized(picture) for picture in row], axis=1) for row in rows])
    return Image.fromarray(whole)


def resized(picture: np.ndarray) -> np.ndarray:
    """Of the size that a moment has in a strip."""
    return np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def terminal(lines: list[str]) -> str:
    """Lines of a terminal as an SVG: the first word, a verdict, in its colour."""
    shown = [part for line in lines for part in textwrap.wrap(line, COLUMNS, subsequent_indent=" " * 20)]
    rows = []
    for number, line in enumerate(shown, 1):
        word = line.split(" ")[0]
        fill = VERDICTS.get(word, "#d8dee9")
        head, rest = (word, line[len(word) :]) if word in VERDICTS else ("", line)
        text = f'<tspan fill="{fill}">{head}</tspan>{html.escape(rest)}'
        rows.append(f'<text x="12" y="{6 + 17 * number}" xml:space="preserve">{text}</text>')
    size = f'width="{24 + 7.3 * COLUMNS:.0f}" height="{20 + 17 * len(shown)}"'
    style = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12" fill="#d8dee9"'
    body = "\n".join([f'<rect {size} rx="6" fill="#1c2128"/>', *rows])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def main(folder: Path) -> None:
    """Writes the strips, and what the doctor says of this machine."""
    told = subprocess.run([sys.executable, "-m", "mlx_video.doctor", "--quiet"], capture_output=True, text=True)
    shared = told.stdout.split("```")[1].strip().split("\n")[1:]
    (folder / "doctor.svg").write_text(terminal(shared))
    with tempfile.TemporaryDirectory() as place, LTXPipeline.from_pretrained("demo") as pipe:
        inputs = Path(place)

        def save(name: str, prompt: str, pictures: tuple[tuple[Image.Image, object], ...] = (), **options) -> None:
            images, sound = [], options.pop("sound", None)
            for number, (picture, frame) in enumerate(pictures):
                picture.save(inputs / f"{number}.png")
                images.append(ImageAt(str(inputs / f"{number}.png"), frame))
            given = {"image": images} if images else {}
            clip = pipe.generate(prompt=prompt, num_frames=FRAMES, **given, **options)
            sheet = strip([np.array(frame) for frame in clip], [picture for picture, _ in pictures], sound)
            sheet.quantize(128).save(folder / f"{name}.png", optimize=True)

        previews(pipe).quantize(64).save(folder / "preview.png", optimize=True)
        save("demo", "a red circle bouncing on a blue background, low beep")
        save(
            "picture", "a green star moving up on a gray background",
            ((draw("star", "green", "gray", 0.5, 0.76), 0),),
        )  # fmt: skip
        first, last = (draw("square", "purple", "white", x, 0.5) for x in (0.24, 0.77))
        save("keyframes", "a purple square moving right on a white background", ((first, 0), (last, "last")))
        for name, first in (("sound-1", 0.0), ("sound-2", 0.25)):
            samples = beeps(inputs / f"{name}.wav", first)
            save(
                name, "a yellow circle bouncing on a black background, high beep",
                sound=samples, audio_file=str(inputs / f"{name}.wav"),
            )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
