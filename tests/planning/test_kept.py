"""How much of a transformer that does not fit stays in memory: the more there is the more, and what the plan says."""

import re
from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_video import LTXPipeline, platform
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs.demand import Networks, generating
from mlx_video.jobs.settings import resolve
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.planning.plan import Demand, Memory, Need, make_plan
from mlx_video.request import Request
from tests.support import macs

GIB, MIB = 1 << 30, 1 << 20
REAL = Request(prompt="a dog runs along the beach and barks " * 5, height=512, width=768, num_frames=121)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """An LTX-2.3 of the published names and sizes, all holes."""
    return macs.make(tmp_path_factory.mktemp("real") / "2.3", "2.3")


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """A checkpoint whose transformer takes more than all else of a small clip."""
    from bench import middle

    sizes = {"WIDTH": 512, "AUDIO_WIDTH": 128, "BLOCKS": 12, "TEXT_WIDTH": 128, "TEXT_LAYERS": 2, "TEXT_FEED": 512}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(middle, name, value)
        return middle.make(tmp_path_factory.mktemp("middle"))


def plan(where, limit=None, request=REAL, bits=None, low=None):
    with macs.mac(64):
        return macs.plan(where, request, Memory.of(low, limit), bits)


def stages(plan) -> list[Need]:
    return [phase for phase in plan.phases if phase.name.startswith("stage")]


# ------------------------------------------------------------------------------------------------ how many


@pytest.mark.parametrize("bits", [None, 8])
def test_more_memory_never_keeps_less_nor_reads_more(real, bits) -> None:
    found = []
    for limit in (*range(5, 20, 2), *range(20, 44, 4)):
        made = plan(real, limit, bits=bits)
        kept = made.ways.kept if made.ways.stream_transformer else 48
        reads = sum(phase.read for phase in stages(made))
        found.append((kept, -reads, -made.seconds))
        assert made.peak <= made.limit
    kept, reads, seconds = (list(one) for one in zip(*found, strict=True))
    assert kept == sorted(kept)
    assert reads == sorted(reads)
    assert seconds == sorted(seconds)
    assert len(set(kept)) > 5
    assert kept[-1] == 48


def test_the_number_is_found_without_trying_each(real) -> None:
    networks, asked = macs.networks(real, "distilled", None), []
    settings = resolve(REAL, RECIPES["distilled"], networks.loader.checkpoint)
    demand = generating(networks, settings)
    with macs.mac(32):
        made = make_plan(replace(demand, needs=lambda ways: asked.append(ways) or demand.needs(ways)), Memory())
        assert 20 < made.ways.kept < 30
        assert len(asked) < 10
        # One more, and some phase would leave less than what is doubtful.
        more = Demand(demand.needs).needs(replace(made.ways, kept=made.ways.kept + 1))
        assert any(need.peak + 0.2 * need.work > made.limit - 2 * GIB for need in more)


def test_packed_blocks_stay_packed(real) -> None:
    """In 8 bit twice as many stay in the same memory."""
    plain, packed = (plan(real, 12, bits=bits) for bits in (None, 8))
    assert 1.8 * plain.ways.kept < packed.ways.kept < 2.4 * plain.ways.kept


@pytest.mark.slow
def test_loras_beside_packed_blocks_are_counted(real) -> None:
    checkpoint = open_checkpoint(real, "distilled")
    for bits, more in ((None, 0), (8, 10)):
        loader = Loader(checkpoint, mx.bfloat16, None if bits is None else macs.Quantization.of(bits))
        ways = Ways(stream_transformer=True, keep_text=False, kept=24)
        parts = [
            Networks(loader, loras=loras).denoise("stage 1", {"video": 96}, [], 1, ways).part
            for loras in ((), (480 * MIB,))
        ]
        assert parts[1] - parts[0] == more * MIB


def test_nothing_stays_where_the_user_says_so_or_where_all_fits(real) -> None:
    assert plan(real, 12, low=True).ways.kept == 0
    assert plan(real, 44).ways == Ways(room=44 * GIB - platform.PROCESS_BYTES, limit=44 * GIB - platform.PROCESS_BYTES)


# ------------------------------------------------------------------------------------------------ what is said


def test_the_sentence_says_how_many_stay(real) -> None:
    made = plan(real, 30)
    (choice,) = made.choices
    kept, parts, read, whole = re.fullmatch(
        r"(\d+) of the transformer's (\d+) blocks stay in memory; (\d+) are read from disk, block by block, in every "
        r"step: whole it would take ([\d.]+) GiB, and 30.0 GiB are allowed\. Faster: --quantize 8, which stays in "
        r"memory\.",
        choice,
    ).groups()
    assert (int(kept), int(parts), int(kept) + int(read)) == (made.ways.kept, 48, 48)
    assert float(whole) == pytest.approx(plan(real, 44).peak / GIB, abs=0.1)


def test_what_is_read_is_the_share_that_does_not_stay(real) -> None:
    some, none = plan(real, 30), plan(real, 30, low=True)
    share = some.ways.kept / 48
    for one, all_of_it, calls in zip(stages(some), stages(none), (8, 3), strict=True):
        assert one.read == pytest.approx(all_of_it.read * (1 - share + share / calls), rel=1e-6)
        assert one.flops == all_of_it.flops


# ------------------------------------------------------------------------------------------------ what is so


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "bits"), [(0.17, None), (0.14, 8)])
def test_a_run_keeps_to_such_a_plan_with_the_same_numbers(middle, monkeypatch, limit, bits) -> None:
    monkeypatch.setattr(platform, "PROCESS_BYTES", 0)
    request = Request(prompt="rain", height=64, width=64, num_frames=9, audio=False)
    with LTXPipeline.from_pretrained(middle, dtype="float32", quantize=bits) as pipe:
        whole = pipe.run(request).latents["video"]
    if bits:  # in which all of it would fit
        room = round(limit * GIB)
        ways = Ways(stream_transformer=True, keep_text=False, kept=8, room=room, limit=room)
        monkeypatch.setattr(Memory, "ways", property(lambda memory: iter([ways])))
    peaks = {}

    def watch(progress) -> None:
        if progress.peak:
            peaks[progress.phase] = progress.peak

    low = True if bits else None
    with LTXPipeline.from_pretrained(
        middle, dtype="float32", quantize=bits, memory_limit=limit, low_memory=low
    ) as pipe:
        made = pipe.plan(request)
        assert 0 < made.ways.kept < 12
        platform.peak_memory()
        some = pipe.run(request, on_step=watch).latents["video"]
    assert mx.array_equal(whole, some)
    for phase in made.phases:
        if phase.part:
            assert 0.7 * phase.peak < peaks[phase.name] < min(1.1 * phase.peak, made.limit), phase.name
