"""The command `mlx_video.convert` under the name that older instructions use; nothing in the package imports this."""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

from importlib import import_module

if __name__ == "__main__":
    raise SystemExit(import_module("mlx_video.convert").main(name="mlx_video.models.ltx_2.convert"))
