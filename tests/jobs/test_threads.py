"""Any thread may generate and decode, two at once one after the other, and the main thread before or after."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, platform
from tests.support import readback

SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture(scope="module")
def expected(small_folder):
    """Latents and frames of the runs below, made in the main thread."""
    clip = generate(small_folder("2.3"))
    return np.array(clip.latents["video"]), list(clip)


def generate(folder, **options):
    with LTXPipeline.from_pretrained(folder, dtype="float32", low_memory=options.pop("low_memory", None)) as pipe:
        return pipe.generate(**{**SMALL, **options})


def check(clip, expected):
    assert np.array_equal(np.array(clip.latents["video"]), expected[0])
    assert np.array_equal(list(clip), expected[1])
    assert np.isfinite(clip.waveform).all()


@pytest.mark.quick("True")
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_thread_and_then_the_main_thread(small_folder, expected, low_memory):
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(generate, small_folder("2.3"), low_memory=low_memory).result()
    check(there, expected)  # made there, decoded here
    here = generate(small_folder("2.3"), low_memory=low_memory)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check, here, expected).result()


def test_two_threads_at_once_wait_for_each_other(small_folder, expected, tmp_path):
    begun, running, most = threading.Barrier(2), [], []

    def work(name):
        def watch(progress):
            running.append(name)
            most.append(len(set(running)))

        begun.wait()
        clip = generate(small_folder("2.3"), on_step=watch)
        del running[:]
        clip.save(tmp_path / f"{name}.mp4")
        return clip

    with ThreadPoolExecutor(2) as pool:
        clips = list(pool.map(work, "ab"))
    for clip in clips:
        check(clip, expected)
    assert max(most) == 1
    # Not byte by byte: x264 reads memory that it has not written, and gives one of several files for noise this small.
    assert readback.read(tmp_path / "a.mp4") == readback.read(tmp_path / "b.mp4")


@pytest.mark.slow
def test_asyncio(small_folder, expected):
    async def main():
        one, other = await asyncio.gather(
            *(asyncio.to_thread(generate, small_folder("2.3"), low_memory=low) for low in (True, False))
        )
        check(one, expected)
        await asyncio.to_thread(check, other, expected)

    asyncio.run(main())
    check(generate(small_folder("2.3")), expected)


def test_each_frame_may_be_taken_in_another_thread(small_folder, expected):
    clip = generate(small_folder("2.3"), num_frames=25, stream=True)
    whole, frames = list(clip), iter(clip)
    taken = []
    while True:
        with ThreadPoolExecutor(1) as pool:
            frame = pool.submit(next, frames, None).result()
        if frame is None:
            break
        taken.append(frame)
        generate(small_folder("2.3")) if len(taken) == 2 else None  # a clip half taken holds nobody up
    assert np.array_equal(taken, whole)


def test_a_preview_may_be_looked_at_elsewhere(small_folder):
    shown = []
    with ThreadPoolExecutor(1) as pool:
        generate(
            small_folder("2.3"),
            on_preview=lambda progress, now: shown.append(pool.submit(lambda: mx.max(now["video"]).item())),
        )
    assert len([one.result() for one in shown]) == 11


def test_threads_come_and_go_without_a_trace(small_folder):
    def work():
        with platform.computing():
            assert mx.sum(mx.ones((3,)) * 2).item() == 6

    work()
    before = threading.active_count()
    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert threading.active_count() == before
    streams = {platform.shared_stream(mx.cpu) for _ in range(3)}
    assert len(streams) == 1


@pytest.mark.slow
def test_a_run_inside_of_a_runs_own_callback(small_folder, expected):
    inner = []

    def again(progress):
        if not inner:
            inner.append(None)
            inner[0] = generate(small_folder("2.3"))

    check(generate(small_folder("2.3"), on_step=again), expected)
    check(inner[0], expected)
