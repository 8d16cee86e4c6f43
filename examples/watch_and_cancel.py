"""Progress, previews and cancelling: three callbacks around one call.

Prints every step, keeps the mean of each step's predicted latent, and gives up after `seconds`.

    python examples/watch_and_cancel.py 60 out.mp4 [MODEL]
"""

import sys
import time

from mlx_video import LTXPipeline

limit, path, *model = sys.argv[1:]
start = time.monotonic()


class TooLong(Exception):
    """Raised by our own callback; the run stops at once and leaves nothing behind."""


def on_step(progress):
    """Called at every step of every phase."""
    print(f"{progress.phase:>9} {progress.done}/{progress.total}")
    if time.monotonic() - start > float(limit):
        raise TooLong


def on_preview(progress, latents):
    """Called after each denoising step with the prediction so far, {"video": (1, 128, F, H, W), ...}."""
    print(f"{'':>9} predicted video: mean {latents['video'].mean().item():.4f}")


with LTXPipeline.from_pretrained(*model or ["Lightricks/LTX-2"]) as pipe:
    try:
        pipe.generate(prompt="A kettle boils", on_step=on_step, on_preview=on_preview).save(path)
    except TooLong:
        print(f"given up after {limit} s")
