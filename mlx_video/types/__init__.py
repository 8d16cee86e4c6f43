"""The nouns of the package: plain values, shapes and results that every layer shares.

Imports nothing from the package and nothing heavy, so `--help` stays fast. It knows the geometry of the latent spaces
(8x time, 32x space, 25 audio latents a second) and nothing of networks, files or sampling.

One legend for axis letters, used in every docstring:
    B batch   C channels   F latent frames   H, W latent rows and columns   T tokens   D width   S samples
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


class Told(Exception):
    """What a user is told in one sentence, written with options as commands spell them (`--height 100`).

    One that leaves the Python API says `height=100`.
    """

    said = ""
    """The sentence as its caller spells options, where that is not as commands do."""

    def __str__(self) -> str:
        """The sentence."""
        return self.said or super().__str__()

    @property
    def field(self) -> str | None:
        """The name of the option that the sentence is about, which a form can mark."""
        found = re.search(r"--(?:no-)?([a-z][a-z0-9-]*)", super().__str__())
        return found[1].replace("-", "_") if found else None


class UserError(Told):
    """Something that the user can put right: one sentence with the value, the rule and the nearest valid values.

    A command prints the message without a traceback and exits with status 2.
    """


class RunError(Told):
    """A run that had to end, through no value that the user gave: what happened, its likely cause, what to do.

    A command prints the message without a traceback and exits with status 1.
    """


def amount(count: int, *, disk: bool = False, digits: int | None = None) -> str:
    """A number of bytes for the user: of memory in GiB or MiB, of files in GB or MB, as the hub and disks tell them.

    digits: behind the point; about three in all if left out, of files one.
    """
    large, small = (10**9, 10**6) if disk else (1 << 30, 1 << 20)
    units = ("GB", "MB") if disk else ("GiB", "MiB")
    value, unit = (count / large, units[0]) if count >= large else (count / small, units[1])
    if digits is None:
        digits = 1 if disk else 2 if value < 10 and count >= large else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


# ---------------------------------------------------------------------------------------------------- geometry

TIME_SCALE = 8
"""Pixel frames per latent frame, the first latent frame excepted: it covers one pixel frame."""
SPACE_SCALE = 32
"""Pixels per latent row and column."""
VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
AUDIO_BINS = 16
"""Mel bins per audio latent; a token holds AUDIO_CHANNELS x AUDIO_BINS values."""
CONTEXT_TOKENS = 1024
"""Length of every text context: prompts are cut to it, and registers fill what a prompt leaves free."""
AUDIO_SAMPLE_RATE = 16_000
AUDIO_HOP = 160
AUDIO_TIME_SCALE = 4
"""Mel frames per audio latent, the first excepted: it covers one."""
AUDIO_LATENTS_PER_SECOND = AUDIO_SAMPLE_RATE / AUDIO_HOP / AUDIO_TIME_SCALE


class VideoShape(NamedTuple):
    """A clip in pixels: frames (1 + 8k), height and width (multiples of 32), frames per second."""

    frames: int
    height: int
    width: int
    fps: float

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns (F, H, W)."""
        return (self.frames - 1) // TIME_SCALE + 1, self.height // SPACE_SCALE, self.width // SPACE_SCALE

    @property
    def tokens(self) -> int:
        """How many tokens the transformer sees: F * H * W."""
        f, h, w = self.grid
        return f * h * w

    @property
    def seconds(self) -> float:
        """Length of the clip in seconds."""
        return self.frames / self.fps

    def margins(self, height: int, width: int) -> tuple[int, int]:
        """Rows above and columns left of a picture of `height` x `width` that is cut out of the middle."""
        return (self.height - height) // 2, (self.width - width) // 2

    def scaled(self, scale: float, rate: int = 1) -> VideoShape:
        """The same clip with height and width times `scale`, and `rate` times as many frames a second."""
        frames, size = (self.frames - 1) * rate + 1, (round(self.height * scale), round(self.width * scale))
        return VideoShape(frames, *size, self.fps if rate == 1 else self.fps * rate)


def frames_of(seconds: float, fps: float, bounds: tuple[float, float]) -> int:
    """A clip of about so many seconds, in frames: 1 + 8k of them, within `bounds` (seconds) as far as those have any.

    Rounded, kept within the rounded bounds, then down to the next 1 + 8k; up instead where that is below the least,
    and the most itself where that is above it. Halves are rounded to even. Source: ltx_core duration_head.
    """
    least, most = (round(bound * fps) for bound in bounds)
    frames = max(least, min(round(seconds * fps), most))
    below = (frames - 1) // TIME_SCALE * TIME_SCALE + 1
    return below if below >= least else min(math.ceil((least - 1) / TIME_SCALE) * TIME_SCALE + 1, most)


class AudioShape(NamedTuple):
    """Sound as the transformer sees it: `frames` latents, 25 of them a second."""

    frames: int

    @classmethod
    def of(cls, video: VideoShape) -> AudioShape:
        """The sound that goes with a clip; rounds half to even as the reference does."""
        return cls(round(AUDIO_LATENTS_PER_SECOND * video.seconds))

    @property
    def mel_frames(self) -> int:
        """Mel frames that `frames` latents decode to."""
        return max(AUDIO_TIME_SCALE * self.frames - (AUDIO_TIME_SCALE - 1), 1)


# ---------------------------------------------------------------------------------------------------- arrays


class State(NamedTuple):
    """One modality while it is denoised. Tokens appended by conditioning come after the clip's own.

    latent: (B, T, D) what the sampler moves; clean: (B, T, D) what conditioning asks for;
    mask: (B, T, 1) 1 = free, 0 = kept at `clean`; positions: (B, axes, T, 2) [start, end) of each token in seconds
    (time) and pixels (rows, columns). keyframes: (1, T, 1) 1 = of a latent frame that the clip has for a single pixel
    frame: its first, and slots that are to be filled; not of pictures that guide it. None where no token is.
    """

    latent: mx.array
    clean: mx.array
    mask: mx.array
    positions: mx.array
    keyframes: mx.array | None = None


class Context(NamedTuple):
    """Text features for each modality: video (B, 1024, D), audio (B, 1024, D)."""

    video: mx.array
    audio: mx.array


Tree = dict[Modality, "mx.array"]
"""Arrays by modality; a missing modality is a missing key."""
Noise = Callable[[str, tuple[int, ...]], "mx.array"]
"""A source of named draws: `noise(name, shape)` -> standard normal float32."""


# ---------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class ImageAt:
    """A picture to start from or to pass through; `frame` is a pixel frame, negative or "last" counts from the end."""

    path: str
    frame: int | Literal["last"] = 0
    strength: float = 1.0
    crf: int | None = None
    """Of the H.264 round trip that training put pictures through; None takes the checkpoint's own, 0 leaves it out."""

    def index(self, frames: int) -> int:
        """The frame's index in a clip of `frames`; raises UserError where it lies outside."""
        index = frames - 1 if self.frame == "last" else self.frame
        index = index + frames if index < 0 else index
        if not 0 <= index < frames:
            raise UserError(
                f"--image {self.path} asks for frame {self.frame}, but the clip has frames 0 to {frames - 1} "
                f"(or {-frames} to -1, counted from the end)."
            )
        return index


@dataclass(frozen=True)
class AudioIn:
    """Sound that the video follows: a sound or video file, from `start` seconds on."""

    path: str
    start: float = 0.0


@dataclass(frozen=True)
class Lora:
    """A LoRA file, folder or hub id, and how strongly it is added."""

    path: str
    strength: float = 1.0


@dataclass(frozen=True)
class Guidance:
    """How strongly one modality is steered in a guided step; the defaults steer nothing.

    `diffusion.guidance` holds the formulas. Source of the fields: the reference's MultiModalGuiderParams, LtxAPGGuider.
    """

    cfg_scale: float = 1.0
    """Away from the negative prompt; 1 is off."""
    stg_scale: float = 0.0
    """Away from the prediction with self-attention perturbed in `stg_blocks`; 0 is off."""
    stg_blocks: tuple[int, ...] = ()
    modality_scale: float = 1.0
    """Away from the prediction without audio-video cross attention; 1 is off."""
    rescale: float = 0.0
    """Share (0 to 1) of the way back to the standard deviation of the unguided prediction."""
    apg_eta: float = 1.0
    """Adaptive projected guidance: what is kept of the text direction's part along the prediction; 1 keeps all."""
    apg_threshold: float = 0.0
    """Adaptive projected guidance: the longest text direction, as an L2 norm over the latent; 0 is no limit."""
    cfg_star: bool = False
    """The negative prediction is first scaled to the positive one's projection on it (CFG-Zero*)."""
    skip_step: int = 0
    """Steps in a row that repeat the modality's last prediction, between steps that compute it."""


class Pass(NamedTuple):
    """One evaluation of the transformer in a guided step.

    context: which prepared context it reads; skip_self_attention: (modality, blocks) whose self-attention gives the
    value projection instead (STG); cross_modal: False leaves out audio-video cross attention in every block.
    """

    context: str = "positive"
    skip_self_attention: tuple[tuple[Modality, frozenset[int]], ...] = ()
    cross_modal: bool = True


# ---------------------------------------------------------------------------------------------------- recipes


DTYPES = ("float16", "bfloat16", "float32")
"""What networks compute in."""
TILINGS = ("auto", "none", "default", "aggressive", "conservative")

VIDEO_DECODERS = ("conv", "diffusion")


class Phase(StrEnum):
    """What a run does, as its reports and its plan call it. A recipe's stages are numbered: see `numbered`."""

    LOOK_UP = "look-up"
    DOWNLOAD = "download"
    ENHANCE = "enhance"
    TEXT = "text"
    IMAGES = "images"
    SOUND = "sound"
    PREVIEW = "preview"
    """Fitting the map that shows latents."""
    READ = "read"
    """A film is read through."""
    ENCODE = "encode"
    """A film that is to be upscaled."""
    STAGE = "stage"
    UPSAMPLE = "upsample"
    """Between two stages."""
    UPSCALE = "upscale"
    FPS = "fps"
    REFINE = "refine"
    WAVEFORM = "waveform"
    DECODE = "decode"
    SAVE = "save"
    """What a file still needs when its last frame is decoded."""
    CHECKUP = "checkup"
    """Examinations of `mlx_video.doctor`."""

    def numbered(self, number: int) -> str:
        """One of several: `stage 1`."""
        return f"{self} {number}"


class Progress(NamedTuple):
    """What a run reports: `done` of `total` units of a phase; at a phase's end, `peak` is its peak memory in bytes."""

    phase: str
    done: int
    total: int
    peak: int | None = None


class Listener(Protocol):
    """Called with every Progress; whatever it raises cancels the run and leaves nothing behind."""

    def __call__(self, progress: Progress, /) -> None:
        """Takes one report."""


Preview = Callable[[Progress, Tree], None]
"""Shown the prediction of the latents after each step."""

Picture = Callable[[Progress, "np.ndarray"], None]
"""Shown the same as pictures: (n, h, w, 3) uint8, one for each latent frame, a quarter of the clip's size a side."""


@dataclass(frozen=True)
class Watch:
    """Who is told of a run's progress, is shown its predictions, and reads what the user should know."""

    report: Listener = lambda progress: None
    preview: Preview | None = None
    say: Callable[[str], None] = lambda message: None
    stepped: Callable[[Progress], None] = lambda progress: None
    """Called after each step of a sampler, once it is kept where anything is: whatever it raises loses nothing."""
    picture: Picture | None = None
    expect: Callable[[Mapping[str, float]], None] = lambda seconds: None
    """Told before a run begins how many seconds its plan expects of each phase, by its name."""
