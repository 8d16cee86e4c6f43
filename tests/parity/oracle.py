"""The one command that prints every parity number: `python -m tests.parity.oracle --out FOLDER [--oracle FOLDER]`.

Builds small checkpoints and recordings of the torch reference with the oracle's scripts (where it is there), runs every
`tests/parity/oracle_*.py` comparison on them, prints a table, and exits with 1 if a limit is passed. Recordings that
are there already (`--recorded FOLDER`) are used as they are.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FOLDERS = {
    "ltx2-distilled": ("2", "distilled"),
    "ltx2-dev": ("2", "dev"),
    "ltx23-distilled": ("2.3", "distilled"),
    "ltx23-dev": ("2.3", "dev"),
}


def record(oracle: Path, out: Path, seed: int) -> None:
    """Writes the four folders and their recordings, with 1.2.0's rules as far as the installed reference has them."""
    for folder, (generation, variant) in FOLDERS.items():
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
            out / f"ref_{folder}.npz",
            "--cross-timestep",
            "mixed",
        ]
        for command in (make, outputs):
            done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{command[0].name} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Prints the table; 0 if every number is within its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, default=Path("../shared/oracle"))
    parser.add_argument("--out", type=Path, help="where to build checkpoints and recordings")
    parser.add_argument("--recorded", type=Path, help="folder of an earlier --out; nothing is built")
    parser.add_argument("--suffix", default="", help="of the recordings' names, for those of another version")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of parts, such as transformer pipelines")
    args = parser.parse_args()
    where = args.recorded or args.out
    if where is None:
        parser.error("give --out or --recorded")
    if args.recorded is None:
        where.mkdir(parents=True, exist_ok=True)
        record(args.oracle, where, args.seed)
    parts = sorted(p.stem.removeprefix("oracle_") for p in Path(__file__).parent.glob("oracle_*.py"))
    worst = 0
    for folder in FOLDERS:
        reference = np.load(where / f"ref_{folder}{args.suffix}.npz")
        for part in parts:
            if args.only and part not in args.only:
                continue
            start = time.perf_counter()
            results = importlib.import_module(f"tests.parity.oracle_{part}").compare(where / folder, reference)
            for case, (error, limit) in results.items():
                good = error <= limit
                worst += not good
                print(
                    f"{folder:16} {part:12} {case:60} {error:9.2e} (at most {limit:.0e}){'' if good else '  TOO FAR'}",
                    flush=True,
                )
            print(f"{folder:16} {part:12} {len(results)} cases, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{worst} beyond their limits" if worst else "all within their limits")
    return 1 if worst else 0


if __name__ == "__main__":
    raise SystemExit(main())
