"""A run in a process of its own, to be killed at any moment: `python -m tests.support.killed MODEL KEPT OPTIONS OUT`.

Keeps itself in KEPT and, once it is done, writes its latents to OUT. Says on standard output when the run begins.
"""

from __future__ import annotations

import json
import sys

from mlx_video import LTXPipeline


def main(model: str, kept: str, options: str, out: str) -> None:
    """Makes the clip of the options, which are JSON."""
    print("begins", flush=True)
    with LTXPipeline.from_pretrained(model, dtype="float32") as pipe:
        pipe.generate(**json.loads(options), keep=kept).store(out)


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (computes as the tests do)

    main(*sys.argv[1:])
