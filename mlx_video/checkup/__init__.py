"""Is it the user, the machine or the model: what `mlx_video.doctor` looks at and measures."""
