"""``python -m tests.fuzzing SUBJECT --cases N``: see the package. Exit code 1 if there was any fault."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}  # forks want no threads

from . import directory, judge, pth, requests, results
from .runner import Case, Verdict, cases, end_of, run_cases, verdict_on

SUBJECTS = {"pth": pth, "directory": directory, "results": results, "requests": requests}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("what", help=f"one of {', '.join(SUBJECTS)}; or a case, such as pth:flip_bits:17")
    parser.add_argument("--cases", type=int, default=200, help="default: 200")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--kind", help="this kind only")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="of a case: leave its files in this new folder")
    parser.add_argument("--json", action="store_true", help="print the verdicts that are faults as JSON Lines")
    args = parser.parse_args()
    name, *rest = args.what.split(":")
    if name not in SUBJECTS:
        parser.error(f"there is no subject {name}")
    if rest:
        return repeat(Case(name, rest[0], int(rest[1])), args.keep)
    todo = cases(name, SUBJECTS[name], args.cases, args.first)
    if args.kind:
        todo = [Case(name, args.kind, seed) for seed in range(args.first, args.first + args.cases)]
    start, verdicts = time.monotonic(), []
    for verdict in run_cases(SUBJECTS[name], todo):
        verdicts.append(verdict)
        if verdict.is_fault and not args.json:
            print(f"{verdict.case}: {verdict.outcome}: {verdict.details}", flush=True)
        if len(verdicts) % 500 == 0:
            rate = len(verdicts) / (time.monotonic() - start)
            print(f"{len(verdicts)} of {len(todo)}, {rate:.0f} a second", file=sys.stderr, flush=True)
    faults = [verdict for verdict in verdicts if verdict.is_fault]
    if args.json:
        for verdict in faults:
            print(json.dumps(asdict(verdict)))
    else:
        print(table(verdicts))
        print(f"{len(verdicts)} cases, {len(faults)} faults, {time.monotonic() - start:.0f} s")
    return 1 if faults else 0


def repeat(case: Case, keep: Path | None) -> int:
    """Run one case in this very process, and show what its commands printed."""
    subject = SUBJECTS[case.subject]
    plain = judge.call

    def shown(work, *limits):
        ending = plain(work, *limits)
        print(f"exit code {ending.code}, grown by {ending.grown >> 20} MB\n{ending.out[:2000]}{ending.err[-2000:]}")
        return ending

    judge.call = shown
    folder = keep or Path(tempfile.mkdtemp(prefix="fuzzing-"))
    folder.mkdir(parents=True, exist_ok=True)
    base = subject.prepare(folder)
    verdicts = [verdict_on(subject, base, case, folder / "case")]
    if hasattr(subject, "finish"):
        verdicts += end_of(subject, base, case)
    for verdict in verdicts:
        print(f"{verdict.case}: {verdict.outcome}: {verdict.details}")
    print(f"its files are in {folder}")
    return int(any(verdict.is_fault for verdict in verdicts))


def table(verdicts: list[Verdict]) -> str:
    """Return how often each kind had which outcome, and how many seconds it took in all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for verdict in verdicts:
        for row in (verdict.case.split(":")[1], "all"):
            counts[row][verdict.outcome] += 1
            seconds[row] += verdict.seconds
    outcomes = ["refused", "accepted", *sorted(counts["all"].keys() - {"refused", "accepted"})]
    rows = sorted(counts, key=lambda kind: (kind == "all", kind))
    lines = [f"{'':<28}" + "".join(f"{outcome:>15}" for outcome in outcomes) + f"{'seconds':>10}"]
    lines += [
        f"{row:<28}" + "".join(f"{counts[row][outcome] or '':>15}" for outcome in outcomes) + f"{seconds[row]:>10.1f}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
