"""What is left of a whole run: the plan's shares, corrected by what was measured, and nothing before that is honest."""

import pytest

from mlx_video.cli.bars import Line
from mlx_video.cli.left import Left
from mlx_video.types import Progress

PLAN = {"text": 10.0, "stage 1": 100.0, "stage 2": 60.0, "decode": 30.0}


@pytest.fixture
def left():
    found = Left()
    found.expect(PLAN)
    return found


def tell(left, phase, done, total, seconds):
    return left.tell(Progress(phase, done, total), seconds)


def test_nothing_is_known_without_a_plan():
    assert tell(Left(), "stage 1", 4, 8, 80.0) is None


def test_nothing_is_said_of_too_little(left):
    assert tell(left, "text", 2, 2, 30.0) is None  # a twentieth of the plan
    assert tell(left, "stage 1", 0, 8, 0.0) is None
    assert tell(left, "stage 1", 1, 8, 90.0) is None  # the first step compiles
    assert tell(left, "stage 1", 1, 100, 2.0) is None


def test_a_slower_machine_is_slower_in_what_comes(left):
    tell(left, "stage 1", 1, 8, 25.0)
    assert tell(left, "stage 1", 4, 8, 100.0) == pytest.approx(100 + 2 * (60 + 30 + 10))


def test_the_first_step_does_not_make_the_others_longer(left):
    tell(left, "stage 1", 1, 10, 50.0)
    alone = tell(left, "stage 1", 10, 10, 140.0)
    assert alone == pytest.approx(1.4 * (60 + 30 + 10))
    assert tell(left, "stage 1", 6, 10, 100.0) - (60 + 30 + 10) * 100 / 60 == pytest.approx(40)


def test_texts_that_were_kept_do_not_make_the_rest_shorter(left):
    tell(left, "text", 2, 2, 0.0)
    tell(left, "stage 1", 1, 8, 12.5)
    tell(left, "stage 1", 8, 8, 100.0)
    tell(left, "stage 2", 1, 4, 15.0)
    assert tell(left, "stage 2", 2, 4, 30.0) == pytest.approx(30 + 30)


def test_phases_that_no_plan_knows_are_not_counted(left):
    tell(left, "stage 1", 1, 8, 12.5)
    tell(left, "stage 1", 8, 8, 100.0)
    assert tell(left, "save", 1, 1, 5.0) is None


@pytest.mark.parametrize(
    ("columns", "wanted"), [(40, "0:10 left"), (60, "0:10 left (run 1:30)"), (200, "0:10 left (run 1:30)")]
)
def test_it_is_shown_where_there_is_room(columns, wanted):
    text = Line("stage 1", 4, 8, 10.0, None, 90.0).drawn(columns)
    assert text.endswith(wanted)
    assert len(text) <= columns
