"""The reports of many clips as those of one run: a phase is over when all of them have been through it.

Knows reports and the clips' phases; knows nothing of what runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mlx_video.types import Listener, Progress


class Tally:
    """Adds the reports of clips up, phase by phase."""

    def __init__(self, report: Listener, phases: Mapping[int, Collection[str]]):
        """report: told of the sums. phases: those that each clip will go through, by its number."""
        self._report, self._phases = report, dict(phases)
        self._seen: dict[str, dict[int, Progress]] = {}

    def of(self, number: int) -> Listener:
        """Takes the reports of the clip of that number."""

        def take(progress: Progress) -> None:
            self._seen.setdefault(progress.phase, {})[number] = progress
            self._report(self._sum(progress))

        return take

    def drop(self, number: int) -> None:
        """The clip goes no further: what it has not done is not waited for."""
        self._phases.pop(number, None)
        for seen in self._seen.values():
            if number in seen:
                seen[number] = seen[number]._replace(total=seen[number].done)

    def _sum(self, now: Progress) -> Progress:
        """Clips that have not come to it yet are taken to have as much to do as this one."""
        seen = self._seen[now.phase]
        waiting = sum(now.phase in phases and number not in seen for number, phases in self._phases.items())
        done, total = sum(one.done for one in seen.values()), sum(one.total for one in seen.values())
        total += waiting * now.total
        peaks = [one.peak for one in seen.values() if one.peak is not None]
        return Progress(now.phase, done, total, max(peaks) if peaks and done == total else None)
