"""The reports of several clips, added up phase by phase."""

from mlx_video.planning.tally import Tally
from mlx_video.types import Progress


def test_a_phase_is_over_when_all_have_been_through_it():
    said = []
    tally = Tally(said.append, {0: ["text", "stage 1"], 1: ["text", "stage 1"], 2: ["text"]})
    first, second = tally.of(0), tally.of(1)
    first(Progress("stage 1", 0, 4))
    first(Progress("stage 1", 4, 4, 100))
    second(Progress("stage 1", 0, 4))
    second(Progress("stage 1", 4, 4, 70))
    assert said == [("stage 1", 0, 8, None), ("stage 1", 4, 8, None), ("stage 1", 4, 8, None), ("stage 1", 8, 8, 100)]


def test_a_clip_that_is_left_out_is_not_waited_for():
    said = []
    tally = Tally(said.append, {number: ["stage 1"] for number in range(3)})
    tally.of(0)(Progress("stage 1", 1, 4))
    tally.drop(0)
    tally.drop(2)
    tally.of(1)(Progress("stage 1", 4, 4, 9))
    assert said[-1] == ("stage 1", 5, 5, 9)
