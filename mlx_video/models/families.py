"""The families that there are; whatever is no family's own work gets one from here, or from a checkpoint."""

from __future__ import annotations

from mlx_video.models.family import Family
from mlx_video.models.ltx_2.family import LTX_2

FAMILIES: dict[str, Family] = {family.name: family for family in (LTX_2,)}
DEFAULT = LTX_2
"""Of what says nothing of itself: a text encoder alone, a clip of noise."""
RECIPES = {name: recipe for family in FAMILIES.values() for name, recipe in family.recipes.items()}
"""All pipelines that can be asked for, before it is known what checkpoint there is."""
