"""Sets MLX up as the commands do, and lends small checkpoints that are written once and then only read."""

import functools
import os
from pathlib import Path

os.environ["MLX_VIDEO_CACHE"] = "off"  # no test reads or leaves anything in the user's own cache

import pytest

from mlx_video import platform

platform.prepare()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """small_folder("2") is the folder of a whole small checkpoint, both variants, made when first asked for."""
    from tests import small

    @functools.cache
    def make(generation: str) -> Path:
        folder = tmp_path_factory.mktemp(f"ltx-{generation}-") / "small"
        return small.make(folder, generation, ("distilled", "dev"))

    return make


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with picture.png and sound.wav."""
    from tests.pipelines.cases import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))
