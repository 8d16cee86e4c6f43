import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.reductions import deviation, standardise, total


@pytest.mark.parametrize("shape", [(1, 3), (2, 5, 7), (3, 129, 128), (1, 300, 50, 1)])
def test_they_are_numpys(shape):
    x = np.random.default_rng(1).standard_normal(shape) * 1.7 + 0.4
    ours, axes = mx.array(x.astype(np.float32)), tuple(range(1, len(shape)))
    np.testing.assert_allclose(total(ours), x.sum(axes), rtol=1e-5)
    assert deviation(ours).item() == pytest.approx(x.std(ddof=1), rel=1e-6)
    wanted = (x - x.mean(axes, keepdims=True)) / x.std(axes, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardise(ours), wanted, atol=2e-6)


def test_a_whole_clip_keeps_its_digits():
    # MLX's own reduction on the CPU is 1e-3 off at this size.
    x = np.random.default_rng(2).standard_normal((1, 24_576, 128)).astype(np.float32) * 1.3
    assert deviation(mx.array(x)).item() == pytest.approx(x.astype(np.float64).std(ddof=1), rel=1e-6)
