"""Reads a clip back: background, colour, shape and motion from its frames, pitch and beeps from its sound.

Plain thresholds, means and template overlap on what a viewer gets (8-bit frames, PCM). It knows how the world looks and
nothing about models; `None` stands for "cannot be told".
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
import torch

from . import world

BACKDROP = np.array(list(world.BACKGROUNDS.values()), float) / 255
HUES = [colorsys.rgb_to_hsv(*(v / 255 for v in c))[0] for c in world.COLOURS.values()]
CONTRAST = 0.2  # distance from the background, in RGB of 0..1, that counts as the shape
SILENCE = 0.01


def _inside(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = torch.from_numpy(u)[None].float(), torch.from_numpy(v)[None].float()
    return (world.distance(torch.tensor([shape], device="cpu"), u, v)[0] < 0).numpy()


def _moments(shape: int) -> tuple[float, float]:
    """Area and height of the centre of mass of a shape of radius 1."""
    g = (np.arange(600) + 0.5) / 600 * 3 - 1.5
    v, u = np.meshgrid(g, g, indexing="ij")
    inside = _inside(shape, u, v)
    return inside.sum() * (3 / 600) ** 2, float(v[inside].mean())


_MOMENTS = [_moments(s) for s in range(4)]


def shape_of(mask: np.ndarray) -> tuple[int | None, float]:
    """The template that overlaps most with the mask, scaled to its area and put on its centre of mass; the overlap."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 40:
        return None, 0.0
    cy, cx = rows.mean(), columns.mean()
    yy, xx = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    overlaps = []
    for shape, (area, height) in enumerate(_MOMENTS):
        r = math.sqrt(len(rows) / area)
        template = _inside(shape, (xx - cx) / r, (yy - cy) / r + height)
        overlaps.append((template & mask).sum() / (template | mask).sum())
    return int(np.argmax(overlaps)), float(max(overlaps))


def look(frames: np.ndarray) -> dict:
    """frames (F, H, W, 3) uint8 -> background, colour, shape, motion (indices), path (F, 2) and contact times."""
    x = frames.astype(np.float32) / 255
    count, height, width, _ = x.shape
    edge = max(3, height // 20)
    corners = np.concatenate([x[:, :edge, :edge], x[:, :edge, -edge:]], 1).reshape(-1, 3)
    ground = np.median(corners, 0)
    seen: dict = {
        "background": int(((BACKDROP - ground) ** 2).sum(1).argmin()),
        "colour": None,
        "shape": None,
        "motion": None,
        "contacts": [],
        "overlap": 0.0,
    }
    mask = np.sqrt(((x - ground) ** 2).sum(-1)) > CONTRAST
    area = mask.sum((1, 2))
    if (area < 0.004 * height * width).mean() > 0.3:
        return seen
    core = np.sqrt(((x - ground) ** 2).sum(-1))
    colour = np.median(x[mask & (core >= np.percentile(core[mask], 40))], 0)
    hue, saturation, _ = colorsys.rgb_to_hsv(*colour)
    if saturation > 0.25:
        seen["colour"] = int(np.argmin([min(abs(hue - h), 1 - abs(hue - h)) for h in HUES]))
    votes = [shape_of(mask[f]) for f in np.linspace(min(1, count - 1), max(count - 2, 0), 7).astype(int)]
    kinds = [v for v, _ in votes if v is not None]
    if kinds:
        weights = [sum(o for v, o in votes if v == k) for k in range(4)]
        seen["shape"] = int(np.argmax(weights))
        seen["overlap"] = float(np.mean([o for _, o in votes]))
    yy, xx = np.mgrid[0:height, 0:width]
    size = np.maximum(area, 1)
    path = np.stack([(mask * xx).sum((1, 2)) / size / width, (mask * yy).sum((1, 2)) / size / height], 1)
    seen["path"], seen["motion"] = path, motion_of(path, area)
    if seen["motion"] == world.BOUNCES:
        y = path[:, 1]
        low = np.percentile(y, 70)
        seen["contacts"] = [
            f / world.FPS for f in range(1, count - 1) if y[f] >= y[f - 1] and y[f] > y[f + 1] and y[f] > low
        ]
    return seen


def motion_of(path: np.ndarray, area: np.ndarray) -> int:
    (dx, dy), y = path[-3:].mean(0) - path[:3].mean(0), path[:, 1]
    if area[-4:].mean() > 1.8 * max(area[:4].mean(), 1):
        return world.GROWS
    if y.max() - y.min() > 0.12 and np.abs(np.diff(y)).sum() > 1.6 * abs(dy) + 0.05:
        return world.BOUNCES
    if max(abs(dx), abs(dy)) < 0.08:
        return world.STAYS
    if abs(dx) > abs(dy):
        return world.RIGHT if dx > 0 else world.LEFT
    return world.DOWN if dy > 0 else world.UP


def listen(wave: np.ndarray, rate: int) -> dict:
    """wave (samples,) or (channels, samples) -> pitch (index) and beeps (times at which the sound sets in)."""
    wave = np.atleast_2d(wave).mean(0)
    heard: dict = {"pitch": None, "beeps": []}
    if len(wave) < rate // 4 or np.abs(wave).max() < SILENCE:
        return heard
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    peak = spectrum[int(60 * len(wave) / rate) :].argmax() + int(60 * len(wave) / rate)
    frequency = peak * rate / len(wave)
    heard["frequency"] = float(frequency)
    heard["pitch"] = int(np.argmin([abs(math.log(frequency / f)) for f in world.PITCHES.values()]))
    hop = rate // 100
    level = np.array([np.abs(wave[i : i + hop]).max() for i in range(0, len(wave) - hop, hop)])
    loud = level > 0.4 * level.max()
    heard["beeps"] = [i * 0.01 for i in range(1, len(loud)) if loud[i] and not loud[i - 1]]
    return heard


def lag(contacts, beeps) -> float | None:
    """Mean distance in seconds from a beep to the nearest contact."""
    if not contacts or not beeps:
        return None
    return float(np.mean([min(abs(b - c) for c in contacts) for b in beeps]))
