"""The one command that prints every parity number: `python -m tests.parity.oracle --out FOLDER [--oracle FOLDER]`.

Builds small checkpoints and recordings of the torch reference with the oracle's scripts (where it is there), runs every
`tests/parity/oracle_*.py` comparison on them (`oracle25_*.py` on LTX-2.5's pack, `oracle09_*.py` on LTX-Video's files,
which have an oracle of their own), prints a table, and exits with 1 if a limit is passed. Recordings that are there
already (`--recorded FOLDER`) are used as they are.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDERS = {
    "ltx2-distilled": ("2", "distilled"),
    "ltx2-dev": ("2", "dev"),
    "ltx23-distilled": ("2.3", "distilled"),
    "ltx23-dev": ("2.3", "dev"),
    "ltx25": ("2.5", "both"),
}
OLDER = ("ltxv-0.9.0", "ltxv-0.9.1", "ltxv-0.9.5", "ltxv-0.9.6-distilled", "ltxv-0.9.8-13b")
"""LTX-Video's; compared where their oracle or their recordings are."""


def record(oracle: Path, out: Path, seed: int) -> None:
    """Writes the folders and their recordings, with 1.2.0's rules as far as the installed reference has them."""
    for folder, (generation, variant) in FOLDERS.items():
        recorded = out / f"ref_{folder}.npz"
        if generation == "2.5":
            _call(oracle / "make_checkpoint_25.py", "--size", "tiny", "--seed", seed, "--out", out / folder)
            _call(oracle / "reference_outputs_25.py", out / folder, "--out", recorded)
            continue
        make = [
            oracle / "make_checkpoint.py",
            "--generation",
            generation,
            "--variant",
            variant,
            "--seed",
            str(seed),
            "--out",
            out / folder,
        ]
        outputs = [
            oracle / "reference_outputs.py",
            out / folder,
            "--out",
            recorded,
            "--cross-timestep",
            "mixed",
        ]
        _call(*make)
        _call(*outputs)


def _call(script: Path, *arguments: object) -> None:
    done = subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script.name} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Prints the table; 0 if every number is within its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, default=Path("../shared/oracle"))
    parser.add_argument("--older-oracle", type=Path, help="LTX-Video's; oracle_ltxv beside --oracle if left out")
    parser.add_argument("--out", type=Path, help="where to build checkpoints and recordings")
    parser.add_argument("--recorded", type=Path, help="folder of an earlier --out; nothing is built")
    parser.add_argument("--suffix", default="", help="of the recordings' names, for those of another version")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of parts, such as transformer pipelines")
    parser.add_argument("--all", action="store_true", help="print every case, not only each part's worst")
    args = parser.parse_args()
    where = args.recorded or args.out
    if where is None:
        parser.error("give --out or --recorded")
    if args.recorded is None:
        where.mkdir(parents=True, exist_ok=True)
        record(args.oracle, where, args.seed)
        older = args.older_oracle or args.oracle.parent / "oracle_ltxv"
        if older.is_dir():
            _call(older / "build_all.py", "--out", where, "--seed", args.seed)
    beyond = count = 0
    for folder, generation in _folders(where, args.suffix):
        reference = dict(np.load(where / f"ref_{folder}{args.suffix}.npz"))
        for part in _parts(generation):
            if args.only and part not in args.only:
                continue
            start = time.perf_counter()
            module = importlib.import_module(f"tests.parity.{_PREFIX.get(generation, 'oracle_')}{part}")
            results = module.compare(where / folder, reference)
            worst = max(results, key=lambda case: results[case][0] / (results[case][1] or 1e-12))
            for case, (error, limit) in results.items():
                if args.all or case == worst or not error <= limit:
                    far = "" if error <= limit else "  TOO FAR"
                    print(f"{folder:16} {part:12} {case:60} {error:9.2e} (at most {limit:.0e}){far}", flush=True)
            beyond += sum(not error <= limit for error, limit in results.values())
            count += len(results)
            print(f"{folder:16} {part:12} {len(results)} cases, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{beyond} of {count} cases beyond their limits" if beyond else f"{count} cases, all within their limits")
    return 1 if beyond else 0


def _folders(where: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """Each folder that is compared, and its generation; of LTX-Video those that were recorded."""
    yield from ((folder, generation) for folder, (generation, _) in FOLDERS.items())
    for folder in OLDER:
        if (where / f"ref_{folder}{suffix}.npz").is_file():
            yield folder, "0.9"
        else:
            print(f"{folder:16} not recorded, left out", flush=True)


_PREFIX = {"2.5": "oracle25_", "0.9": "oracle09_"}


def _parts(generation: str) -> list[str]:
    """What there is to compare: LTX-2.5's pack and LTX-Video's files have recordings of other forms, and modules of
    their own.
    """
    prefix = _PREFIX.get(generation, "oracle_")
    return sorted(path.stem.removeprefix(prefix) for path in Path(__file__).parent.glob(f"{prefix}*.py"))


if __name__ == "__main__":
    raise SystemExit(main())
