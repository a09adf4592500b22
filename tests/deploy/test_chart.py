"""The Helm chart: lints, renders what Kubernetes accepts, and wires its parts to each other."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError, lint

CHART = Path(__file__).parents[2] / "helm" / "tollway"


def render(values: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Return the rendered objects by kind."""
    files = Chart.load(CHART).render(dict(values or {}), name="demo", namespace="apps")
    objects = [item for text in files.values() for item in yaml.safe_load_all(text) if item]
    return {item["kind"]: item for item in objects}


def test_the_chart_lints() -> None:
    report = lint(CHART)
    assert not [message for message in report["messages"] if message["severity"] >= 2], report


def test_every_object_is_valid_for_kubernetes() -> None:
    objects = render()
    assert set(objects) == {
        "ConfigMap",
        "Deployment",
        "PodDisruptionBudget",
        "Secret",
        "Service",
        "ServiceAccount",
    }
    for item in objects.values():
        kubernetes_validate.validate(item, "1.31", strict=True)


def test_the_container_runs_without_privileges() -> None:
    pod = render()["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_probes_ask_for_health_and_readiness() -> None:
    container = render()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_each_key_of_the_configuration_is_an_entry_of_the_secret_and_never_in_the_config_map() -> None:
    objects = render({"keys": [{"name": "team-a", "routes": ["auto"]}, {"name": "b"}]})
    config = yaml.safe_load(objects["ConfigMap"]["data"]["tollway.yaml"])
    secret = objects["Secret"]["data"]
    assert config["keys"] == [
        {"name": "team-a", "routes": ["auto"], "secret": "env:TOLLWAY_KEY_TEAM_A"},
        {"name": "b", "secret": "env:TOLLWAY_KEY_B"},
    ]
    assert set(secret) == {"TOLLWAY_KEY_TEAM_A", "TOLLWAY_KEY_B"}
    generated = [base64.b64decode(value).decode() for value in secret.values()]
    assert len(set(generated)) == 2
    assert all(len(key) >= 40 and key not in objects["ConfigMap"]["data"]["tollway.yaml"] for key in generated)


def test_selectors_meet_the_pods_labels() -> None:
    objects = render()
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


@pytest.mark.parametrize(
    "values",
    [
        {"keys": []},
        {"replicas": -1},
        {"imagee": {}},
        {"config": "providers: {}"},
        {"config": "providers: {a: {}}\nmodels: {b: {}}\nkeys: [{name: x}]"},
        {"config": "providers: ["},
    ],
    ids=["no keys", "negative replicas", "misspelt", "no providers", "keys in config", "not YAML"],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        render(values)
