"""The command `mlx_video.generate_av`: `generate` with its sound in a file, too, as older instructions have it."""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

from mlx_video import generate


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return generate.main(argv, "mlx_video.generate_av", {"output_path": "output_av.mp4", "sound_beside": True})


if __name__ == "__main__":
    raise SystemExit(main())
