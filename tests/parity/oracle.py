"""The one command that prints every parity number: `python -m tests.parity.oracle --out FOLDER [--oracle FOLDER]`.

Builds small checkpoints and recordings of the torch reference with the oracle's scripts (where it is there), runs every
`tests/parity/oracle_*.py` comparison on them (`oracle25_*.py` on LTX-2.5's pack), prints a table, and exits with 1 if a
limit is passed. Recordings that are there already (`--recorded FOLDER`) are used as they are.
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
    "ltx25": ("2.5", "both"),
}


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
    beyond = count = 0
    for folder, (generation, _) in FOLDERS.items():
        reference = dict(np.load(where / f"ref_{folder}{args.suffix}.npz"))
        for part in _parts(generation):
            if args.only and part not in args.only:
                continue
            start = time.perf_counter()
            module = importlib.import_module(f"tests.parity.{_PREFIX[generation == '2.5']}{part}")
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


_PREFIX = {False: "oracle_", True: "oracle25_"}


def _parts(generation: str) -> list[str]:
    """What there is to compare: LTX-2.5's pack has recordings of another form, and modules of its own."""
    prefix = _PREFIX[generation == "2.5"]
    return sorted(path.stem.removeprefix(prefix) for path in Path(__file__).parent.glob(f"{prefix}*.py"))


if __name__ == "__main__":
    raise SystemExit(main())
