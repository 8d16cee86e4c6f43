"""The diffusion decoder by its definitions, in numpy and float64, with mistakes that can be made on purpose.

The whole clip at once, every query's window gathered; slow and short. Knows nothing of our network but its config.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SETTINGS = {
    "vae": {
        "_class_name": "CausalDiffusionVAE",
        "dims": 3,
        "model_output_type": "x0",
        "encoder": {
            "_class_name": "Encoder", "dims": 3, "in_channels": 3, "out_channels": 8, "patch_size": 4,
            "blocks": [["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 1}]],
            "latent_log_var": "constant", "norm_layer": "pixel_norm", "spatial_padding_mode": "zeros",
        },
        "decoder": {
            "_class_name": "NADiffusionDecoder", "in_channels": 8, "out_channels": 3, "patch_size": 2, "head_dim": 16,
            "stage_channels": [32, 32, 16, 16, 16], "stage_depths": [1, 2, 1, 1, 2],
            "stage_kernels": [[3, 3, 3], [3, 2, 4], [3, 4, 3], [3, 3, 5], [5, 5, 7]],
            "upsamples": [[[1, 2, 2], 1], [[2, 1, 1], 2], [[1, 1, 1], 1], [[2, 2, 2], 1]],
            "resampler_kind": "linear", "stage5_kernel": [5, 5, 7], "timestep_scale_multiplier": 1000.0,
            "default_num_inference_steps": 1,
        },
    }
}  # fmt: skip
"""Another growth than the published one (4 in time and space), even windows, and every stage of its own shape."""
MISTAKES = (
    "positions in halves", "windows cut", "windows moved in space", "scale and shift swapped", "gates", "rows first",
    "context cut", "no appended frames", "velocity", "latent as it is", "first frame kept",
)  # fmt: skip


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """For tensors of these shapes: values that keep activations near 1, none at what it begins with."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in sorted(shapes.items()):
        value = rng.standard_normal(shape)
        if "norm" in name or name.endswith("std-of-means"):
            value = 1 + 0.2 * value
        elif len(shape) == 2:
            value *= shape[1] ** -0.5
        else:
            value *= 0.2
        found[name] = value.astype(np.float32).astype(np.float64)
    return found


class Plain:
    """The decoder over `tensors` by official names, without prefixes."""

    def __init__(self, config, tensors: Mapping[str, np.ndarray], mistake: str = ""):
        self.config, self.tensors, self.mistake = config, tensors, mistake

    def __call__(self, latent: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """(F, H, W, C) and (frames, height, width, 3) -> (frames, height, width, 3); nothing is padded."""
        *stages, last = self.config.stages
        w, wrong = self.tensors, self.mistake
        frames = len(latent)
        appended = 0 if wrong == "no appended frames" else self.config.appended
        x = np.concatenate([latent, *[latent[-1:]] * appended])
        if wrong != "latent as it is":
            statistics = "per_channel_statistics."
            x = x * w[f"{statistics}std-of-means"] + w[f"{statistics}mean-of-means"]
        x = self.linear("conv_in", x)
        for i, stage in enumerate(stages):
            for j in range(stage.depth):
                x = self.block(f"det_stages.{i}.{j}", x, stage.window)
            x = self.spread(self.linear(f"upsamples.{i}.proj", x), stage.growth)
        count = self.config.growth[0] * (frames - 1) + 1
        least = count if wrong == "context cut" else max(count, last.window[0])
        context, x = x[:least], self.linear("conv_in_x_t", self.patches(noise[:least]))
        rows = self.rows()
        for j in range(last.depth):
            x = self.block(f"diff_blocks.{j}", x, last.window, context, rows)
        pixels = self.pixels(self.linear("conv_out", rms(x, w["norm_out.weight"])))
        return (noise[:least] - pixels if wrong == "velocity" else pixels)[:count]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = x @ self.tensors[f"{name}.weight"].T
        return y + self.tensors.get(f"{name}.bias", 0.0)

    def rows(self) -> np.ndarray:
        angles = self.config.timestep_multiplier * np.exp(-np.log(10_000.0) * np.arange(128) / 128)
        x = self.linear("t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)]))
        x = self.linear("t_embedder.mlp.2", silu(x))
        return self.linear("shared_adaln.proj", silu(x)).reshape(7, -1)

    def block(self, name: str, x: np.ndarray, window, context=None, rows=None) -> np.ndarray:
        w, scale = self.tensors, [1.0, 0.0] * 2
        gates = [1.0] * 3
        if rows is not None:
            own = rows + w[f"{name}.scale_shift_table"]
            scale = [1 + own[0], own[1], 1 + own[3], own[4]]
            if self.mistake == "scale and shift swapped":
                scale = [1 + own[1], own[0], 1 + own[4], own[3]]
            if self.mistake == "gates":
                gates = [own[2], own[5], own[6]]
            gates = [g * w.get(f"{name}.gate_{key}", 1.0) for g, key in zip(gates, ("msa", "mlp", "ctx"), strict=True)]
            x = x + gates[2] * self.linear(f"{name}.context_proj", context)
        y = rms(x, w[f"{name}.norm1.weight"]) * scale[0] + scale[1]
        x = x + gates[0] * self.attention(f"{name}.attn", y, window, rows is not None)
        y = rms(x, w[f"{name}.norm2.weight"]) * scale[2] + scale[3]
        y = silu(self.linear(f"{name}.mlp.w_gate", y)) * self.linear(f"{name}.mlp.w_up", y)
        return x + gates[1] * self.linear(f"{name}.mlp.w_down", y)

    def attention(self, name: str, x: np.ndarray, window, diffusion: bool) -> np.ndarray:
        margin = window[2] // 2 if diffusion and self.mistake != "windows moved in space" else 0
        x = np.pad(x, [(0, 0), (0, 0), (margin, margin), (0, 0)], mode="edge")
        q, k, v = np.split(self.linear(f"{name}.qkv", x), 3, axis=-1)
        q, k, v = (part.reshape(*x.shape[:3], -1, self.config.head_dim) for part in (q, k, v))
        q = self.turned(rms(q, self.tensors[f"{name}.q_norm.weight"])) / np.sqrt(self.config.head_dim)
        k = self.turned(rms(k, self.tensors[f"{name}.k_norm.weight"]))
        found = neighbourhood(q, k, v, window, cut=self.mistake == "windows cut")
        found = self.linear(f"{name}.proj", found.reshape(*x.shape[:3], -1))
        return found[:, :, margin : found.shape[2] - margin]

    def turned(self, x: np.ndarray) -> np.ndarray:
        dim = x.shape[-1]
        sizes = {16: (4, 6, 6), 64: (16, 24, 24)}[dim]
        parts, start = [], 0
        for axis, size in enumerate(sizes):
            part, start = x[..., start : start + size], start + size
            angles = np.arange(x.shape[axis])[:, None] * 10_000.0 ** (-np.arange(0, size, 2) / size)
            shape = [1] * 4 + [size // 2]
            shape[axis] = x.shape[axis]
            turn = np.exp(1j * angles).reshape(shape)
            if self.mistake == "positions in halves":
                turned = (part[..., : size // 2] + 1j * part[..., size // 2 :]) * turn
                parts.append(np.concatenate([turned.real, turned.imag], axis=-1))
            else:
                turned = (part[..., ::2] + 1j * part[..., 1::2]) * turn
                parts.append(np.stack([turned.real, turned.imag], axis=-1).reshape(part.shape))
        return np.concatenate(parts, axis=-1)

    def spread(self, x: np.ndarray, growth) -> np.ndarray:
        (frames, rows, columns, _), (t, h, w) = x.shape, growth
        x = x.reshape(frames, rows, columns, -1, t, h, w).transpose(0, 4, 1, 5, 2, 6, 3)
        x = x.reshape(frames * t, rows * h, columns * w, -1)
        return x[1:] if t == 2 and self.mistake != "first frame kept" else x

    def patches(self, pixels: np.ndarray) -> np.ndarray:
        frames, height, width, _ = pixels.shape
        p = self.config.patch_size
        x = pixels.reshape(frames, height // p, p, width // p, p, 3)
        order = (0, 1, 3, 5, 2, 4) if self.mistake == "rows first" else (0, 1, 3, 5, 4, 2)
        return x.transpose(order).reshape(frames, height // p, width // p, -1)

    def pixels(self, x: np.ndarray) -> np.ndarray:
        frames, rows, columns, _ = x.shape
        p = self.config.patch_size
        x = x.reshape(frames, rows, columns, 3, p, p)
        order = (0, 1, 4, 2, 5, 3) if self.mistake == "rows first" else (0, 1, 5, 2, 4, 3)
        return x.transpose(order).reshape(frames, rows * p, columns * p, 3)


def neighbourhood(q: np.ndarray, k: np.ndarray, v: np.ndarray, window, *, cut: bool = False) -> np.ndarray:
    """Attention (T, H, W, heads, D) of scaled queries to a window each: moved inward at the borders, or `cut` there."""
    out = np.empty_like(q)
    sides = q.shape[:3]
    for place in np.ndindex(*sides):
        box = []
        for i, size, length in zip(place, window, sides, strict=True):
            size = min(size, length)
            start = i - size // 2
            stop = start + size
            box.append(slice(max(start, 0), stop) if cut else slice(s := min(max(start, 0), length - size), s + size))
        keys, values = (x[tuple(box)].reshape(-1, *x.shape[3:]) for x in (k, v))
        scores = np.einsum("hd,khd->hk", q[place], keys)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[place] = np.einsum("hk,khd->hd", shares / shares.sum(axis=-1, keepdims=True), values)
    return out


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x))."""
    return x / (1 + np.exp(-x))
