"""What the README says of the pipelines is what the recipes hold, and what it says of Macs is what the planner says."""

from pathlib import Path

import pytest

from bench import chips, fits
from mlx_video.models.ltx_2.family import LTX_2
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.types.recipes import Recipe, Stage

README = (Path(__file__).parent.parent / "README.md").read_text()
FIXED_STEPS = {"distilled": 8, "refine": 3}


def _stage(recipe: Recipe, stage: Stage) -> str:
    size = "full size" if stage.scale == 1 else f"1/{round(1 / stage.scale)} size"
    if stage.schedule in FIXED_STEPS:
        steps = str(FIXED_STEPS[stage.schedule])
    elif "steps" in recipe.defaults:
        steps = str(recipe.defaults["steps"])
    else:
        steps = " or ".join(dict.fromkeys(str(one.defaults["steps"]) for one in LTX_2.generations))
    return f"{size}: {steps} steps" + ("" if stage.sampler == "euler" else f" of {stage.sampler}")


def row(recipe: Recipe) -> str:
    guided = [str(number) for number, stage in enumerate(recipe.stages, 1) if stage.guided]
    cells = (
        f"`{recipe.name}`" + (" (default)" if recipe.name == "distilled" else ""),
        recipe.variant,
        "; ".join(_stage(recipe, stage) for stage in recipe.stages),
        f"stage {', '.join(guided)}" if guided else "none",
        str(recipe.audio_from + 1),
        recipe.summary,
    )
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_pipelines_is_the_recipes():
    for recipe in RECIPES.values():
        assert row(recipe) in README


def test_fixed_schedules_have_the_steps_that_the_table_says():
    from mlx_video.diffusion.schedules import SCHEDULES

    for name, steps in FIXED_STEPS.items():
        assert len(SCHEDULES[name](None)) == steps + 1


def test_what_fits_on_which_mac_is_what_the_planner_says(tmp_path):
    assert fits.report(tmp_path) in README, "python -m bench.fits README.md puts the table there anew"


def test_the_table_of_macs_is_put_in_the_place_of_the_old_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n\n| Mac | a |\n| --- | --- |\n| M1 | old |\n| M2 | old |\n\n| other | a |\n| --- | --- |\n"
    )
    fits.put(page, "| Mac | a |\n| --- | --- |\n| M4 | new |")
    assert page.read_text() == "before\n\n| Mac | a |\n| --- | --- |\n| M4 | new |\n\n| other | a |\n| --- | --- |\n"
    with pytest.raises(SystemExit, match="0 tables"):
        fits.put(page, "| Chip | a |\n| --- | --- |")


def test_what_is_decided_by_chip_is_what_the_platform_says():
    page = (Path(__file__).parent.parent / "docs" / "macs.md").read_text()
    assert chips.report() in page, "python -m bench.chips docs/macs.md puts the table there anew"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200
