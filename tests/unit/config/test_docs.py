"""What README and docs show is taken by the gateway: configurations are read, programs compile.

Pages of docs/extend are followed whole, each by a test of its own.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import read_snapshot
from gateway.config.schema import Config
from gateway.providers.registry import PROVIDER_TYPES
from workers.config.spec import read_workers

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "extend")]
LOCAL = {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"}
_BLOCK = re.compile(r"^```(yaml|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(kind: str) -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            if block[1] == kind:
                line = text.count("\n", 0, block.start()) + 2
                yield pytest.param(block[2], id=f"{page.relative_to(ROOT)}:{line}")


class Anything(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - a mapping's signature
        return "/" if name == "HOME" else f"value-of-{name}"


@pytest.mark.parametrize("text", [*blocks("yaml")])
def test_configuration_of_the_docs_is_accepted(text: str, tmp_path: Path) -> None:
    """What a part leaves out (providers, models that a route names) is put beside it; a worker alone is one."""
    config = yaml.safe_load(text)
    if not config.keys() & Config.model_fields.keys():
        config = {"workers": config}
    assert read_workers(config.get("workers"))[1] == []
    models = config.setdefault("models", {})
    routes = config.get("routes") or {}
    named = [name for route in routes.values() for name in route.get("models", ())]
    for name in named or ["m"]:
        models.setdefault(name, {"provider": "p", "price": "free"})
    for name, simulated in (config.get("simulation") or {}).items():
        models.setdefault(name, {"provider": "own" if "replica" in simulated else "p", "price": "free"})
    providers = config.setdefault("providers", {})
    providers.setdefault("own", {"type": "ray-serve", "base_url": "http://127.0.0.1:1"})
    for model in models.values():
        name = model["provider"]
        providers.setdefault(name, {"type": name, "api_key": "env:KEY"} if name in PROVIDER_TYPES else LOCAL)
    if (config.get("server") or {}).get("host", "127.0.0.1") != "127.0.0.1":
        config.setdefault("keys", [{"name": "k", "secret": "env:KEY"}])
    path = tmp_path / "tollway.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    read_snapshot(path, Anything())


@pytest.mark.parametrize("text", [*blocks("python")])
def test_program_of_the_docs_compiles(text: str) -> None:
    compile(text, "docs", "exec", dont_inherit=True)
