"""Sets MLX up as the commands do: on a Linux CPU that is a fast matrix product and a cache that holds a network."""

from mlx_video import platform

platform.prepare()
