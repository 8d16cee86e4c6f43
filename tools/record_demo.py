"""Records what the demo makes on this machine's CPU in float32, for `mlx_video.doctor`: python -m tools.record_demo.

To be run anew when the demo's weights change, and never to make a doctor's verdict another.
"""

import os

os.environ["MLX_VIDEO_CACHE"] = "off"

import mlx.core as mx
import numpy as np

from mlx_video import LTXPipeline
from mlx_video.checkpoints import demo
from mlx_video.checkup.demo_run import ASKED, FILE, results_of


def main() -> None:
    mx.set_default_device(mx.cpu)
    with LTXPipeline.from_pretrained("demo", dtype="float32", vae_dtype="float32") as pipe:
        found = results_of(pipe.generate(**ASKED))
    np.savez_compressed(demo.folder() / FILE, **found)
    print({name: (value.shape, str(value.dtype)) for name, value in found.items()})


if __name__ == "__main__":
    main()
