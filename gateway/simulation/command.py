"""``tollway simulate``: what a configuration would do with the requests of a trace, without sending any."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

from gateway.app import configuration, read_snapshot
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.config.secretless import AnyEnviron
from gateway.config.simulation import SimulatedModelSection, SimulatedReplicaSection
from gateway.config.snapshot import Snapshot
from gateway.providers.registry import PROVIDER_TYPES
from gateway.simulation.report import slo_of, table
from gateway.simulation.run import simulate, under_key
from gateway.simulation.trace import Row, TraceError, read_trace


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "simulate",
        help="play a trace of requests through a configuration, in front of modelled targets",
        description="Play a trace of requests through a configuration, in front of modelled targets: no request is "
        "sent, no secret is needed, nothing is written. See docs/guide/simulate.md.",
    )
    parser.add_argument("--config", type=Path, default=Path("tollway.yaml"), help="default: %(default)s")
    parser.add_argument(
        "--trace", required=True, metavar="FILE", help="a trace, or poisson:REQUESTS_PER_S,INPUT_TOKENS,OUTPUT_TOKENS"
    )
    parser.add_argument("--route", help="ask for this; default: the file's first route, or its only model")
    parser.add_argument("--key", metavar="NAME", help="under the limits of this key; default: under none")
    parser.add_argument("--seed", type=_count, default=0, help="the same seed gives the same; default: %(default)s")
    parser.add_argument("--requests", type=_positive, metavar="N", help="only the first so many; made up: 1000")
    parser.add_argument("--replicas", type=_count, default=0, metavar="+N", help="so many more of each own model")
    parser.add_argument(
        "--closed-loop",
        action="store_true",
        help="a session's next request waits for the end of the one before, and then for the recorded pause",
    )
    parser.set_defaults(run=_simulate)


def _count(written: str) -> int:
    try:
        number = int(written)
    except ValueError:
        number = -1
    if not 0 <= number <= 1_000_000_000:
        raise argparse.ArgumentTypeError("should be a whole number of 0 or more")
    return number


def _positive(written: str) -> int:
    number = _count(written)
    if number == 0:
        raise argparse.ArgumentTypeError("should be a whole number of 1 or more")
    return number


def _simulate(arguments: argparse.Namespace) -> int:
    seed = arguments.seed
    try:
        environ = AnyEnviron(os.environ)
        config = load(arguments.config, environ, configuration(), provider_types=PROVIDER_TYPES)
        snapshot = read_snapshot(arguments.config, environ)
        route = _route(snapshot, config, arguments.route)
        sections = _with_replicas(snapshot, config.simulation, arguments.replicas)
        rows = _rows(arguments)
        if arguments.key is not None:
            snapshot = under_key(snapshot, arguments.key)
    except KeyError:
        print(f"{arguments.config}: there is no key '{arguments.key}'.", file=sys.stderr)
        return 1
    except (ConfigError, TraceError) as error:
        print(error, file=sys.stderr)
        return 1
    log = logging.getLogger("tollway")
    level, began_s = log.level, time.perf_counter()
    log.setLevel(logging.CRITICAL)  # a failed attempt is a figure here
    try:
        ledger = simulate(snapshot, sections, rows, route=route, seed=seed, closed_loop=arguments.closed_loop)
    finally:
        log.setLevel(level)
    took_s = time.perf_counter() - began_s
    answered = sum(each.outcome == "ok" for each in ledger.records)
    print(f"{len(rows)} requests to '{route}' within {rows[-1].at_s:.0f} s, {answered} answered; seed {seed}")
    targets = [each.id for each in snapshot.routes[route].targets]
    print(table(ledger.records, ledger.entries, targets, slo_of(config.routes.get(route))))
    print(f"simulated in {took_s:.1f} s: {len(rows) / took_s:.0f} requests a second", file=sys.stderr)
    return 0


def _rows(arguments: argparse.Namespace) -> list[Row]:
    rows = read_trace(arguments.trace, Random(arguments.seed), arguments.requests)  # noqa: S311 - no secret
    if arguments.closed_loop and all(each.session is None or each.took_s is None for each in rows):
        raise TraceError(f"--closed-loop: {arguments.trace} has no request with a `session` and with `took`.")
    return rows


def _route(snapshot: Snapshot, config: Config, asked: str | None) -> str:
    if asked is None and config.routes:
        return next(iter(config.routes))
    names = list(snapshot.routes)
    if asked is None and len(names) == 1:
        return names[0]
    if asked is None or asked not in snapshot.routes:
        said = "--route is needed" if asked is None else f"there is no route '{asked}'"
        raise TraceError(f"{said}; there are {', '.join(names) or 'none'}.")
    return asked


def _with_replicas(
    snapshot: Snapshot, sections: Mapping[str, SimulatedModelSection], more: int
) -> Mapping[str, SimulatedModelSection]:
    """Return the sections with so many more replicas of each model that a directory lists."""
    own = [each.id for each in snapshot.targets.values() if each.cluster_url is not None]
    if more and not own:
        raise TraceError("--replicas: no model runs on replicas of a Ray Serve cluster.")
    if not more:
        return sections
    changed = dict(sections)
    for name in own:
        section = sections.get(name, SimulatedModelSection())
        replica = section.replica or SimulatedReplicaSection()
        replica = replica.model_copy(update={"replicas": replica.replicas + more})
        changed[name] = section.model_copy(update={"replica": replica})
    return changed
