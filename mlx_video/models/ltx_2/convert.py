"""The command `mlx_video.convert` under the name that older instructions use; nothing in the package imports this."""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

from importlib import import_module


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return int(import_module("mlx_video.convert").main(argv, "mlx_video.models.ltx_2.convert"))


if __name__ == "__main__":
    raise SystemExit(main())
