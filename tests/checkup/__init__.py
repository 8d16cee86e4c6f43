"""The checkup of `mlx_video.doctor`."""
