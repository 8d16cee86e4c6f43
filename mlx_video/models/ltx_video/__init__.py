"""LTX-Video 0.9.x, the family before LTX-2: one stream of video, T5 text."""
