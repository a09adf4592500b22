"""The bench's command line: ``python -m loadtests.bench``, from the repository's root; ``make bench``."""

import argparse
import datetime as dt
import json
import os
import platform
import resource
import sys
from functools import partial
from pathlib import Path

from loadtests.bench.command import begin, repeat
from loadtests.bench.contenders import CONTENDERS, TollwayAt
from loadtests.bench.figures import DIRECT, Rounds, spread
from loadtests.bench.install import InstallError, commit_of
from loadtests.bench.run import Bench, entries_of, install
from loadtests.bench.table import as_json, markdown
from loadtests.bench.workloads import WORKLOADS


def main() -> int:
    """Run it; return 0 when Tollway was measured without an error, 1 when not, 130 when interrupted."""
    arguments = _parser().parse_args()
    cache, wire = begin()
    wanted = [one for one in CONTENDERS if one.name in arguments.contenders]
    try:
        wanted += [TollwayAt(commit_of(name)) for name in arguments.commits]
    except InstallError as error:
        sys.exit(str(error))
    entries = entries_of(wanted, cache, direct=DIRECT in arguments.contenders)
    for entry in entries:
        print(f"installing {entry.name}", file=sys.stderr, flush=True)
        install(entry)
    workloads = [one for one in WORKLOADS if one.name in arguments.workloads]
    if (problem := _allow_files(max(one.connections for one in workloads))) is not None:
        print(problem, file=sys.stderr)
        return 1
    bench = Bench(wire=wire, entries=entries, workloads=workloads, seconds=arguments.seconds)
    interrupted = repeat(arguments.rounds, bench.round)
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {len(bench.rounds)} round(s) of {arguments.seconds:g} s a "
        f"point, {os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}; other programs took "
        f"{_others(bench.rounds)} of the contender's core\n"
    )
    print(markdown(entries, workloads, bench.rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(entries, bench.rounds), indent=1) + "\n")
    failed = [entry.name for entry in entries if entry.problem] + [
        contender for measures in bench.rounds for (_, contender), measure in measures.items() if measure.errors
    ]
    return 130 if interrupted else int("tollway" in failed)


def _parser() -> argparse.ArgumentParser:
    default = os.environ.get
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description="Measure gateways side by side, each on one core. Options may come from the environment too.",
    )
    parser.add_argument("--rounds", type=int, default=int(default("BENCH_ROUNDS", "5")), help="BENCH_ROUNDS")
    parser.add_argument(
        "--seconds", type=float, default=float(default("BENCH_SECONDS", "5")), help="of each point; BENCH_SECONDS"
    )
    contenders = [DIRECT, *(one.name for one in CONTENDERS)]
    for option, names, usual in (
        ("contenders", contenders, contenders),
        ("workloads", [one.name for one in WORKLOADS], [one.name for one in WORKLOADS if one.by_default]),
    ):
        parser.add_argument(
            f"--{option}",
            type=partial(_choice, names),
            default=default(f"BENCH_{option.upper()}", "") or ",".join(usual),
            help=f"BENCH_{option.upper()}; with commas between; there are {', '.join(names)}; "
            f"default all{''.join(f' but {name}' for name in names if name not in usual)}",
        )
    parser.add_argument(
        "--commits",
        type=lambda text: text.split(","),
        default=default("BENCH_COMMITS") or [],
        help="Tollway at these commits too, with commas between; BENCH_COMMITS",
    )
    json_default = default("BENCH_JSON")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(json_default) if json_default else None,
        help="write every figure of every round to this file; BENCH_JSON",
    )
    return parser


def _allow_files(connections: int) -> str | None:
    """Let what is started open two files a connection and some more; return the sentence when the system does not."""
    wanted = 2 * connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return f"{connections} connections need {wanted} open files a process, and the limit here is {hard}: ulimit -Hn"
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return None


def _choice(names: list[str], text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are: {', '.join(names)}")
    return chosen


def _others(rounds: Rounds) -> str:
    found = spread(
        measure.others_share
        for measures in rounds
        for (_, contender), measure in measures.items()
        if contender != DIRECT  # which leaves that core to whoever wants it
    )
    return f"{found.median:.0%} (at most {found.high:.0%})" if found else "an unknown part"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
