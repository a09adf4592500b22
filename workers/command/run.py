"""``tollway workers run``: the models of one configuration on this machine, in the foreground, until a signal."""

import os
from collections.abc import Mapping
from pathlib import Path

from workers.cluster.local import Deployed, deploy, local_cluster
from workers.command.leftovers import run_directory
from workers.command.signals import StopRequested, reload_on_hangup, stop_on_end_of_stdin, stop_on_signals
from workers.config.spec import ModelSpec, load_workers
from workers.errors import WorkerError
from workers.replica.models import prepare
from workers.replica.ports import require_free

PROGRESS = "[tollway] "
"""What a line of progress begins with on standard output, where Ray writes its own lines too."""

READY = "the workers are ready"
"""The line of progress after which every model answers; ``up`` waits for it."""
RELOADED = "the workers are as the file says"
"""The line of progress after a reload."""


def run_workers(config: Path, port: int, temp_dir: Path | None, *, until_stdin_closes: bool) -> int:
    """Serve the ``workers:`` section of ``config`` on 127.0.0.1:``port``; return 0 after SIGINT or SIGTERM.

    SIGHUP, where there is no terminal, reads the file again and upgrades what has changed without a gap.

    ``until_stdin_closes`` makes the end of standard input a stop as well, so that a parent that dies, however it dies,
    takes the workers with it. A directory of the run's own is made in ``temp_dir``, else in /tmp, and removed at the
    end. Raises ``WorkerError`` when something cannot start; nothing is left running then.
    """
    specs = _specs(config)
    require_free(port)
    try:
        stop_on_signals()
        if until_stdin_closes:
            stop_on_end_of_stdin()
        with run_directory(temp_dir) as directory:
            models = _prepared(specs)
            if os.environ.get("RAY_ADDRESS"):
                _say("RAY_ADDRESS is left out: this Ray is our own, and `tollway workers deploy` is for others")
            _say("starting Ray")
            # The engine's sockets and scratch files go with the run's directory.
            os.environ["TMPDIR"] = str(directory)
            with local_cluster(port, directory):
                # Again: Ray has replaced our handler.
                stop_on_signals()
                reloads = reload_on_hangup()
                running: dict[str, Deployed | None] = {}
                deploy(models, running, _say)
                _say(READY)
                while reloads.get():
                    _reload(config, running)
    except StopRequested:
        pass
    return 0


def _reload(config: Path, running: dict[str, Deployed | None]) -> None:
    """Bring the models in line with the file as it is now; a file or a model that is wrong changes nothing else."""
    try:
        deploy(_prepared(_specs(config)), running, _say)
        _say(RELOADED)
    except WorkerError as error:
        _say(f"not reloaded: {error}")


def _specs(config: Path) -> dict[str, ModelSpec]:
    specs = load_workers(config)
    if not specs:
        raise WorkerError(f"{config} has no `workers:` section, so there is nothing to run.")
    return specs


def _prepared(specs: Mapping[str, ModelSpec]) -> dict[str, tuple[str, ModelSpec]]:
    return {name: (prepare(spec.source, _say) if spec.engine == "vllm" else "", spec) for name, spec in specs.items()}


def _say(line: str) -> None:
    print(PROGRESS + line, flush=True)
