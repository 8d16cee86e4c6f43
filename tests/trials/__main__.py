"""`python -m tests.trials`: tries bad inputs and faults, and prints how many of each ended how."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.trials.case import VERDICTS, Verdict
from tests.trials.farm import Worker


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1500, help="bad inputs to try (default %(default)s)")
    parser.add_argument("--faults", type=int, default=300, help="faults to try (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="other trials of the same kinds (default %(default)s)")
    parser.add_argument(
        "--only", action="append", metavar="GROUP[:NUMBER]", help="this group, or this one trial; repeatable"
    )
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a trial may take (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that try things (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, for other programs")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 where every trial ended as it should, else 1."""
    args = build_parser().parse_args(argv)
    begun, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="trials-") as scratch:
        for verdict in tried(args, Path(scratch)):
            found.append(verdict)
            if not verdict.good:
                tell(verdict, args.seed)
    print("\n" + table(found))
    print(f"seed {args.seed}, {time.monotonic() - begun:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([asdict(verdict) for verdict in found], indent=1))
    return 0 if all(verdict.good for verdict in found) else 1


def tried(args: argparse.Namespace, scratch: Path) -> Iterator[Verdict]:
    """All verdicts, as they come."""
    from tests.trials import faults
    from tests.trials.groups import shares

    inputs = chosen(shares(args.inputs) if args.inputs else {}, args.only)
    injected = chosen(faults.shares(args.faults) if args.faults else {}, args.only)
    # What each process sets up first is set up once.
    first = Worker(scratch, args.seed, args.limit)
    workers = [first, *(Worker(scratch, args.seed, args.limit) for _ in range(args.jobs - 1))]
    try:
        if inputs or injected:
            first.start()
        with ThreadPoolExecutor(args.jobs) as pool:
            yield from (
                (
                    v
                    for part in pool.map(_share, workers, [inputs[i :: args.jobs] for i in range(args.jobs)])
                    for v in part
                )
                if args.jobs > 1
                else _share(first, inputs)
            )
        first.close()
        for group, number in injected:
            yield faults.attempt(group, number, args.seed, scratch, args.limit)
    finally:
        for worker in workers:
            worker.close()


def _share(worker: Worker, inputs: list[tuple[str, int]]) -> Iterator[Verdict]:
    return (worker.attempt(group, number) for group, number in inputs)


def chosen(shares: dict[str, int], only: Sequence[str] | None) -> list[tuple[str, int]]:
    """(group, number) of every trial, a group after the other; only those that are named, if any are."""
    if not only:
        return [(group, number) for group, share in shares.items() for number in range(share)]
    found = []
    for name in only:
        group, _, number = name.partition(":")
        if group in shares:
            found += [(group, int(number))] if number else [(group, n) for n in range(shares[group])]
    return found


def tell(verdict: Verdict, seed: int) -> None:
    """One trial that did not end as it should: what, why, what was said, and how to make it again."""
    said = verdict.said.strip().replace("\n", "\n        ")[-600:]
    print(f"{verdict.verdict}: {verdict.group} {verdict.number}: {verdict.case}\n    {verdict.why}\n        {said}")
    print(f"    python -m tests.trials --only {verdict.group}:{verdict.number} --seed {seed}", flush=True)


def table(found: Sequence[Verdict]) -> str:
    """The counts by group, as Markdown."""
    groups = list(dict.fromkeys(verdict.group for verdict in found))
    columns = [name for name in (*VERDICTS, "skipped") if name in VERDICTS or any(v.verdict == name for v in found)]
    lines = [f"| group | tried | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for group in (*groups, "**all**"):
        mine = [verdict for verdict in found if group in (verdict.group, "**all**")]
        counts = [sum(verdict.verdict == column for verdict in mine) for column in columns]
        lines.append(f"| {group} | {len(mine)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
