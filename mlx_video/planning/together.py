"""What several runs take that go through their phases together: in each phase what the largest takes, and what waits.

Every network is read once for all of them. Adds and compares; knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlx_video.lending.visits import Ways
from mlx_video.planning.plan import Demand, Need


@dataclass(frozen=True)
class Together:
    """Runs that share their networks."""

    demands: Sequence[tuple[Demand, int]]
    """What they need by themselves, and how many runs need the same."""
    waiting: int
    """Bytes that runs leave from one phase to the next, all together."""
    small: int
    """Bytes of the networks that stay beside others: see `lending.shelf`."""
    apart: Callable[[Ways], Need | None]
    """A phase that they do not go through one by one, if there is one."""
    limit: int
    """Bytes of weights up to which a network is one of the small ones."""

    def demand(self) -> Demand:
        """That of all, with what could be asked instead of the largest."""
        largest = max((one for one, _ in self.demands), key=lambda one: max(need.peak for need in one.needs(Ways())))
        return replace(largest, needs=self.needs, what="The largest of these clips")

    def needs(self, ways: Ways) -> list[Need]:
        """Phase by phase."""
        found: dict[str, list[tuple[Need, int]]] = {}
        order: list[str] = []
        for demand, count in self.demands:
            own = demand.needs(ways)
            names = [need.name for need in own]
            _merge(order, names)
            for need in own:
                found.setdefault(need.name, []).append((need, count))
        summed = {name: self._sum(found[name], ways) for name in order}
        if (apart := self.apart(ways)) is not None:
            summed[apart.name] = apart
        return [self._beside(need) for need in summed.values()]

    def _sum(self, needs: Sequence[tuple[Need, int]], ways: Ways) -> Need:
        worst = max((need for need, _ in needs), key=lambda need: need.peak)
        again = ways.stream_transformer and worst.name.startswith("stage")
        read = sum(need.read * count for need, count in needs) if again else max(need.read for need, _ in needs)
        return worst._replace(flops=sum(need.flops * count for need, count in needs), read=read)

    def _beside(self, need: Need) -> Need:
        small = max(self.small - (need.weights if need.weights <= self.limit else 0), 0)
        return need._replace(work=need.work + self.waiting + small, without=need.without + self.waiting + small)


def _merge(order: list[str], names: Sequence[str]) -> None:
    """Puts names that `order` lacks where they stand among those that it has."""
    for i, name in enumerate(names):
        if name not in order:
            later = next((other for other in names[i + 1 :] if other in order), None)
            order.insert(len(order) if later is None else order.index(later), name)
