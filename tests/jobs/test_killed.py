"""A run that is killed at any moment, 20 times over, goes on to the same latents and leaves nothing behind."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import Clip, LTXPipeline
from tests.support.cases import PIPELINES

ROOT = Path(__file__).parents[2]
KILLED = 20
SMALL = {"prompt": "a red ball and slow music", "height": 64, "width": 64, "num_frames": 17}
STEPS = {"distilled": {}, "dev": {"steps": 8, "skip_step": 1}}
DONE = ["latents.safetensors", "request.json", "settings.json"]


def begun(model, options, kept, out, steps=0):
    """A process that has just begun its run."""
    words = [sys.executable, "-m", "tests.support.killed", model, kept, json.dumps(options), out, steps]
    process = subprocess.Popen([str(word) for word in words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_run_that_is_killed_at_20_moments_ends_in_the_same_latents(pipeline, small_folder, tmp_path):
    options = {**SMALL, "pipeline": pipeline, **STEPS.get(pipeline, {"steps": 4})}
    model, kept, out = small_folder("2.3"), tmp_path / "kept", tmp_path / "out.safetensors"
    with LTXPipeline.from_pretrained(model, dtype="float32") as pipe:
        whole = pipe.generate(**options).latents
    # How long one takes from its beginning, so that the moments are all over it, whatever the machine has to do.
    process, start = begun(model, options, tmp_path / "first", out), time.monotonic()
    assert process.wait() == 0
    seconds, moments = time.monotonic() - start, random.Random(pipeline)
    out.unlink()
    seen = set()
    for count in range(KILLED):
        # Every other time by the clock, which strikes anywhere; else within a stage, however fast the machine is. The
        # run is shorter each time, and begins anew when it is done.
        steps = 0 if count % 2 else moments.randint(1, 6)
        process = begun(model, options, kept, out, steps)
        try:
            process.wait(None if steps else moments.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
        if process.wait() == 0:
            assert_same(whole, out, kept)
            for file in kept.iterdir():
                file.unlink()
            kept.rmdir()
            out.unlink()
        seen |= set(os.listdir(kept)) if kept.exists() else {f"done by {count}"}
    assert begun(model, options, kept, out).wait() == 0
    assert_same(whole, out, kept)
    assert "state.safetensors" in seen  # some of them within a stage


def assert_same(whole, out, kept):
    found = Clip.open(out).latents
    assert all(mx.array_equal(whole[m], found[m]).item() for m in whole)
    assert sorted(os.listdir(kept)) == DONE
    assert all(mx.array_equal(whole[m], array).item() for m, array in Clip.open(kept).latents.items())
