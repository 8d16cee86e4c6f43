"""What a user may ask of an upscaling, as plain values, and every check of it that needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from mlx_video.request import options
from mlx_video.request.options import Option, option
from mlx_video.types import TILINGS, UserError

SCALES = {1.0: None, 1.5: "spatial x1.5", 2.0: "spatial x2"}
"""Of height and width, each with the upsampler that makes it."""
FPS_SCALES = {1: None, 2: "temporal x2"}
REFINING_STEPS = 3
"""Of the whole refining schedule."""


@dataclass(frozen=True)
class Upscaling:
    """All that a user may ask of an upscaling; field names are the flags' names with underscores."""

    input: str = option(
        MISSING, "-i FILE", "a picture or a video of any size and length",
        Option(MISSING, "--output -o FILE", "of the same kind: picture or video", name="output_path"),
    )  # fmt: skip
    scale: float = option(
        2.0, "X", "of height and width: 2, 1.5 (LTX-2.3), or 1 to keep the size (default {default})",
        choices=tuple(SCALES),
    )  # fmt: skip
    fps_scale: int = option(
        1, "N", "2 puts a frame between any two, at twice the rate (default {default})", choices=tuple(FPS_SCALES)
    )
    refine: bool = option(False, "", "add detail by denoising a little; needs --prompt", group="refinement")
    prompt: str = option("", "-p TEXT", "what the picture or video shows", needs="refine")
    steps: int | None = option(
        None, "N", "1 to 3: fewer begin with less noise and change less (default 3)",
        needs="refine", limits=(1, REFINING_STEPS),
    )  # fmt: skip
    seed: int = option(42, "-s N", "same seed, same detail (default {default})")
    tiling: str = option("auto", "", "work in tiles to save memory (default {default})", group="", choices=TILINGS)

    def check(self) -> None:
        """Raises UserError for what cannot be done, before any file is read."""
        options.check(self)
        if not (self.upsamplers or self.refine):
            raise UserError("--scale 1 changes nothing by itself; add --fps-scale 2 or --refine, or take --scale 2.")
        if self.refine and not self.prompt.strip():
            raise UserError("--refine needs a prompt that says what the video shows; add --prompt TEXT.")

    @property
    def upsamplers(self) -> tuple[str, ...]:
        """The kinds of upsamplers that it takes, in their order."""
        return tuple(kind for kind in (SCALES[self.scale], FPS_SCALES[self.fps_scale]) if kind is not None)

    @property
    def metadata(self) -> dict[str, Any]:
        """Plain values for the file's metadata."""
        asked = {key: value for key, value in asdict(self).items() if value not in (None, "", False)}
        return {**asked, "input": Path(self.input).name}


class UpscalingOptions(TypedDict, total=False):
    """The keywords of `LTXPipeline.upscale`: the fields of an Upscaling after its input."""

    scale: float
    fps_scale: int
    refine: bool
    prompt: str
    steps: int | None
    seed: int
    tiling: str


def upscaling_of(given: Mapping[str, Any]) -> Upscaling:
    """An Upscaling from the keywords of `upscale`; raises UserError for a keyword that is not known."""
    names = ("input", *UpscalingOptions.__annotations__, "noise", "on_step")
    return Upscaling(**options.taken("upscale", Upscaling, given, names))
