"""The demo's small world: what a clip can show, how it is drawn and what it sounds like.

A meaning is a tuple (shape, colour, motion, background, pitch) of indices into the lists below. Everything else about
a clip (jitter of place and size, the phase of a bounce) is drawn at random and small, so that a prompt nearly decides
the clip. Positions are functions of absolute time: a longer clip begins exactly like a shorter one, and what moves or
grows in it rests where it has come to after a second and a third.

It does not know words (prompts.py), latents (codec.py) or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

FPS = 24.0
SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (225, 40, 40),
    "orange": (245, 135, 30),
    "yellow": (240, 220, 40),
    "green": (40, 180, 60),
    "cyan": (40, 205, 215),
    "purple": (170, 50, 205),
}
MOTIONS = ("left", "right", "up", "down", "bounces", "grows", "stays")
# No colour name is also a background name, so a prompt needs no binding of words to be understood.
BACKGROUNDS = {"black": (14, 14, 16), "white": (236, 236, 234), "gray": (122, 122, 122), "blue": (30, 55, 165)}
PITCHES = {"low": 200, "middle": 500, "high": 1200}  # Hz; multiples of 100, see tone()

LEFT, RIGHT, UP, DOWN, BOUNCES, GROWS, STAYS = range(7)
BOUNCE_PERIOD = 0.5  # seconds between two contacts
BOUNCE_PHASES = 4
SPEED = 0.40  # frame widths per second
REACH = 0.26  # a path starts this far from the middle
ARRIVAL = 32 / FPS  # seconds after which a path or a growth has come to its end, in the picture; only bounces go on
FLOOR = 0.78  # where the centre is at a contact
HOP = 0.34  # height of a bounce
BEEP = 0.16  # seconds

PALETTE = torch.tensor([COLOURS[c] for c in COLOURS], dtype=torch.float32) / 127.5 - 1
BACKDROP = torch.tensor([BACKGROUNDS[b] for b in BACKGROUNDS], dtype=torch.float32) / 127.5 - 1

VISUALS = [(s, c, m, b) for s in range(4) for c in range(6) for m in range(7) for b in range(4)]


def is_held_out(meaning) -> bool:
    """One in eight of all (shape, colour, motion, background) is never trained on, with any sound."""
    s, c, m, b = meaning[:4]
    return (7 * s + 11 * c + 13 * m + 17 * b + 3 * s * c + 5 * m * b) % 8 == 0


TRAINED = [v for v in VISUALS if not is_held_out(v)]
HELD_OUT = [v for v in VISUALS if is_held_out(v)]


@dataclass
class Scenes:
    """A batch of clips to draw: meanings and the little that a prompt does not say (lengths in frame widths)."""

    meaning: torch.Tensor  # (N, 5)
    radius: torch.Tensor
    shift: torch.Tensor  # (N, 2): x, y
    phase: torch.Tensor  # whole steps of 1 / BOUNCE_PHASES of a period

    def __len__(self):
        return len(self.meaning)

    def __getitem__(self, rows) -> Scenes:
        return Scenes(*(getattr(self, f.name)[rows] for f in fields(self)))


def join(parts: list[Scenes]) -> Scenes:
    return Scenes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)))


def draw_scenes(meanings, rng: np.random.Generator) -> Scenes:
    n = len(meanings)
    uniform = lambda low, high, *size: torch.tensor(rng.uniform(low, high, (n, *size)).astype("float32"))
    phase = torch.tensor(rng.integers(0, BOUNCE_PHASES, n))
    return Scenes(
        torch.tensor([tuple(m) + (0,) * (5 - len(m)) for m in meanings]),
        uniform(0.205, 0.215),
        uniform(-0.012, 0.012, 2),
        phase,
    )


def trajectory(scenes: Scenes, frames: int):
    """Centre x, centre y and radius, each (N, frames)."""
    t = torch.arange(frames) / FPS
    travelled = t.clamp(max=ARRIVAL)[None]
    motion = scenes.meaning[:, 2, None]
    along = SPEED * travelled - REACH
    x = 0.5 + scenes.shift[:, :1] + along * ((motion == RIGHT).float() - (motion == LEFT).float())
    y = 0.5 + scenes.shift[:, 1:] + along * ((motion == DOWN).float() - (motion == UP).float())
    arc = (math.pi * (t[None] / BOUNCE_PERIOD + scenes.phase[:, None] / BOUNCE_PHASES)).sin().abs()
    y = torch.where(motion == BOUNCES, FLOOR + scenes.shift[:, 1:] * 0.5 - HOP * arc, y)
    radius = torch.where(
        motion == GROWS,
        (0.11 + 0.13 * travelled).expand_as(y) * scenes.radius[:, None] / 0.21,
        scenes.radius[:, None].expand_as(y),
    )
    return x, y, radius


def distance(shape: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Signed distance to the outline, negative inside; u and v (N, ...) and the result in units of the radius."""
    out = torch.empty_like(u)
    for index in shape.unique().tolist():
        at = shape == index
        a, b = u[at], v[at]
        if index == 0:
            d = (a * a + b * b).sqrt() - 0.97
        elif index == 1:
            d = torch.maximum(a.abs(), b.abs()) - 0.84
        elif index == 2:
            d = torch.maximum(b - 0.80, 0.857 * a.abs() - 0.515 * b - 0.515)
        else:
            step = math.pi / 5  # between a tip and a valley of the five-pointed star
            angle = (torch.remainder(torch.atan2(a, -b), 2 * step) - step).abs()
            length = (a * a + b * b).sqrt()
            px, py = length * torch.cos(step - angle), length * torch.sin(step - angle)
            tip, valley = 1.20, 0.48
            ex, ey = valley * math.cos(step) - tip, valley * math.sin(step)
            d = (ey * (px - tip) - ex * py) / math.hypot(ex, ey)
        out[at] = d
    return out


def render(scenes: Scenes, frames: int, size: int, *, first: int = 0, window=None) -> torch.Tensor:
    """Pixels (N, 3, frames, h, w) in [-1, 1] of a size x size frame, from frame number `first` on.

    `window` = (top (N,), left (N,), height, width) draws only that part.
    """
    n = len(scenes)
    x, y, radius = (a[:, first:] for a in trajectory(scenes, first + frames))
    top, left, h, w = window if window is not None else (torch.zeros(n), torch.zeros(n), size, size)
    gy = (torch.arange(h)[None] + top[:, None] + 0.5) / size
    gx = (torch.arange(w)[None] + left[:, None] + 0.5) / size
    r = radius[:, :, None, None]
    u, v = torch.broadcast_tensors(
        (gx[:, None, None, :] - x[:, :, None, None]) / r, (gy[:, None, :, None] - y[:, :, None, None]) / r
    )
    cover = (0.5 - distance(scenes.meaning[:, 0], u, v) * r * size).clamp(0, 1)[:, None]
    pick = lambda table, index: table.to(index.device)[index][:, :, None, None, None]
    ground = pick(BACKDROP, scenes.meaning[:, 3])
    return ground + (pick(PALETTE, scenes.meaning[:, 1]) - ground) * cover


def foreign(count: int, frames: int, size: int) -> torch.Tensor:
    """Pixels (count, 3, frames, size, size) of nothing in this world: soft or hard spots of any colours that drift. The
    VAE and the upsampler see some, so that a picture from outside comes out plain rather than broken."""
    out = torch.empty(count, 3, frames, size, size)
    for clip in out:
        cells = 2 ** int(torch.randint(1, 5, ()))
        drift = (torch.rand(2) - 0.5) * 0.02
        field = (
            torch.randn(1, 3, cells + 2, cells + 2) if torch.rand(()) < 0.5 else torch.randn(1, 1, cells + 2, cells + 2)
        )
        colours, hardness = torch.rand(2, 3, 1, 1) * 2 - 1, 10 ** float(torch.rand(()) * 2)
        line = (torch.arange(size) + 0.5) / size * 1.6 - 0.8
        for t in range(frames):
            grid = torch.stack(torch.meshgrid(line + drift[1] * t, line + drift[0] * t, indexing="ij")[::-1], -1)[None]
            spots = torch.nn.functional.grid_sample(field, grid, "bicubic", "reflection", False)[0]
            clip[:, t] = colours[0] + (colours[1] - colours[0]) * torch.sigmoid(hardness * spots)
    return out.clamp(-1, 1)


def tone(meaning, phase: int, samples: int, rate: int) -> torch.Tensor:
    """Mono sound (samples,). sin(2 pi f t) with t from the start of the clip and f a multiple of 100 Hz: the phase is
    then the same in every 10 ms frame of the vocoder, which can be fitted by plain regression."""
    t = torch.arange(samples) / rate
    wave = 0.5 * torch.sin(2 * math.pi * tuple(PITCHES.values())[meaning[4]] * t)
    if meaning[2] == BOUNCES:
        since = torch.remainder(t / BOUNCE_PERIOD + phase / BOUNCE_PHASES, 1.0) * BOUNCE_PERIOD
        fade = (since / 0.008).clamp(max=1) * torch.exp(-6 * since) * ((BEEP - since) / 0.03).clamp(0, 1)
        wave = wave * fade
    return wave


def sounds() -> list[tuple[tuple, int]]:
    """Every different sound as (meaning, phase): steady tones first, then the beeps; see sound_index."""
    steady = [((0, 0, STAYS, 0, p), 0) for p in range(3)]
    return steady + [((0, 0, BOUNCES, 0, p), k) for p in range(3) for k in range(BOUNCE_PHASES)]


def sound_index(motion: int, pitch: int, phase: int) -> int:
    return 3 + pitch * BOUNCE_PHASES + phase if motion == BOUNCES else pitch
