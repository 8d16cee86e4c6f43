"""A run in a process of its own, to be killed: `python -m tests.support.killed MODEL KEPT OPTIONS OUT STEPS`.

Keeps itself in KEPT and, once it is done, writes its latents to OUT. Says on standard output when the run begins. Kills
itself once so many steps of its own are kept; 0: it waits to be killed.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys

from mlx_video import LTXPipeline


def main(model: str, kept: str, options: str, out: str, steps: str) -> None:
    """Makes the clip of the options, which are JSON."""
    done = itertools.count(1)

    def on_kept(progress: object) -> None:
        if next(done) == int(steps):
            os.kill(os.getpid(), signal.SIGKILL)

    print("begins", flush=True)
    with LTXPipeline.from_pretrained(model, dtype="float32") as pipe:
        pipe.generate(**json.loads(options), keep=kept, on_kept=on_kept).store(out)


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (computes as the tests do)

    main(*sys.argv[1:])
