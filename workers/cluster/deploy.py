"""``tollway workers deploy``: the models of a configuration on a Ray cluster that is already there.

It speaks Ray Serve's declarative interface at the cluster's dashboard (Ray 2.60: PUT ``/api/serve/applications/``). One
request says everything that this interface has ever put there, so what others have put is said again as it is; what was
put otherwise is not its concern. Serve leaves alone what is equal and upgrades what has changed without a gap.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from workers.cluster.autoscaling import scale
from workers.cluster.directory import listed
from workers.config.spec import DIRECTORY, ModelSpec, load_workers
from workers.errors import WorkerError
from workers.replica.causes import FAILED, not_started
from workers.replica.models import Report

_MODULE = "workers.cluster.app:"
_OURS = (_MODULE, "workers.app:")  # the second is how an earlier release deployed them
_LOOK_S = 1.0
_NOTHING: Mapping[str, Any] = {"status": "NOT_STARTED", "message": "", "deployments": {}}

Applications = list[dict[str, Any]]
"""As Serve's configuration has them."""


def applications(config: Path) -> Applications:
    """Return the Serve applications of a file's ``workers:`` section. Raises ``WorkerError``, also when it is empty."""
    specs = load_workers(config)
    if not specs:
        raise WorkerError(f"{config} has no `workers:` section, so there is nothing to deploy.")
    known = msgspec.to_builtins(listed(specs))
    return [_application(DIRECTORY, "directory_from", {"models": known}), *map(_model, specs, specs.values())]


def rendered(config: Path) -> str:
    """Return the applications as YAML, as ``serve deploy`` and KubeRay's ``serveConfigV2`` take it."""
    return yaml.safe_dump({"applications": applications(config)}, sort_keys=False)


def deploy(wanted: Applications, address: str, http: Mapping[str, object], report: Report) -> None:
    """Make a cluster run these applications and none of ours beside them, and return when all can serve.

    ``address`` is that of the cluster's dashboard, ``http`` (``host``, ``port``) is where Serve's proxies shall listen
    if Serve is not running there yet. Raises ``WorkerError`` when the cluster cannot be reached or refuses, when it has
    an application of that name which is not ours, or when a model does not come up; what it had before then goes on.
    """
    cluster = _Cluster(address)
    running = cluster.applications()
    configs = {name: config for name, each in running.items() if (config := each.get("deployed_app_config"))}
    ours = {name for name, config in configs.items() if config["import_path"].startswith(_OURS)}
    others = [config for name, config in configs.items() if name not in ours]
    names = {application["name"] for application in wanted}
    if taken := {name for name in names & running.keys() - ours if running[name]["status"] != "DELETING"}:
        raise WorkerError(f"{address} has an application {min(taken)!r} that is not Tollway's; rename the worker.")
    for name in sorted(ours - names):
        report(f"stopping {name}")
    for application in wanted:
        if (name := application["name"]) in ours:
            before = {**configs[name]["args"]}
            failures = before.pop("failures", 0) + (running[name]["status"] == "DEPLOY_FAILED")
            # Serve does not try again what has failed and is asked for as it was.
            if failures and before == application["args"]:
                application["args"] = {**before, "failures": failures}
    if wanted or ours:
        cluster.put({"http_options": dict(http), "applications": others + wanted})
    for name in sorted(names):
        cluster.wait_for(name, _messages(running.get(name, _NOTHING)), report)
        report(f"{name} is ready")


class _Cluster:
    """Serve on a cluster, by the dashboard; what goes wrong on the way becomes one sentence."""

    def __init__(self, address: str) -> None:
        # Imported late: Ray takes seconds.
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
        from ray.exceptions import AuthenticationError

        self._address = address
        self._errors = (AuthenticationError, OSError, RuntimeError, ValueError)
        try:
            self._client = ServeSubmissionClient(address)
        except self._errors as error:
            raise self._said("cannot be asked", error) from error

    def applications(self) -> dict[str, dict[str, Any]]:
        """Return the applications by name, with status, message and, if they were put here, their configuration."""
        try:
            found: dict[str, dict[str, Any]] = self._client.get_serve_details()["applications"]
        except self._errors as error:
            raise self._said("did not say what it runs", error) from error
        return found

    def put(self, config: dict[str, object]) -> None:
        """Say what shall run."""
        try:
            self._client.deploy_applications(config)
        except self._errors as error:
            raise self._said("refused the applications", error) from error

    def wait_for(self, name: str, said: str, report: Report) -> None:
        """Return when an application can serve; raise ``WorkerError`` with the reason when it never will.

        ``said`` is what Serve had to say of its replicas before.
        """
        while True:
            application = self.applications().get(name, _NOTHING)
            if application["status"] == "RUNNING":
                return
            before, said = said, _messages(application)
            if application["status"] == "DEPLOY_FAILED" or (FAILED in said and said != before):
                raise not_started(name, said or application["message"])
            if said != before:
                report(f"{name}: {said}")
            time.sleep(_LOOK_S)

    def _said(self, what: str, error: Exception) -> WorkerError:
        reason = str(error).strip().partition("\n")[0]
        return WorkerError(f"The Ray dashboard at {self._address} {what}: {reason}")


def _messages(application: Mapping[str, Any]) -> str:
    return "\n".join(deployment["message"] for deployment in application["deployments"].values())


def _model(name: str, spec: ModelSpec) -> dict[str, object]:
    # How many replicas is said beside the arguments: Serve replaces all of an application's when those have changed.
    replica = spec.of_one_replica().model_dump(mode="json", exclude_unset=True)
    application = _application(name, "model_from", {"name": name, "spec": replica})
    return application | {"deployments": [{"name": name, **scale(spec)}]}


def _application(name: str, builder: str, arguments: dict[str, object]) -> dict[str, object]:
    return {"name": name, "route_prefix": f"/{name}", "import_path": f"{_MODULE}{builder}", "args": arguments}
