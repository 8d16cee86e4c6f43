"""The command `mlx_video.generate_dev`: `generate --pipeline dev`, under the name that older instructions use."""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

from mlx_video import generate


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return generate.main(argv, "mlx_video.generate_dev", {"pipeline": "dev"})


if __name__ == "__main__":
    raise SystemExit(main())
