"""The coding agents: how each is pointed at the gateway, what its tools are called, and what it shows its user.

What is set here is what ``docs/guide/agents.md`` says, and what keeps an agent from asking anything but the gateway.
"""

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

from tests.agents.installed import installed
from tests.ground.said import Called

TYPO, CORRECTED = "Hello, wrld!\n", "Hello, world!\n"
_PROMPT = "You are a coding agent."
_TOOLS = "Read,Edit,Bash"
_COMMAND = "cp greeting.txt copied.txt && wc -c copied.txt"


class Gateway(NamedTuple):
    """Where an agent finds it, and a model there. ``small``: its prompt and tools are cut down for a short context."""

    url: str
    key: str
    model: str
    context: int = 128_000
    small: bool = False


class Shown(NamedTuple):
    """What an agent's user sees: its last words, and every error."""

    answer: str
    errors: list[str]


class Agent(ABC):
    """One agent, run without a terminal."""

    too_long: str
    """What it shows when its prompt does not fit."""
    asides = re.compile("(?!)")
    """What it writes to stderr that is no error."""

    @abstractmethod
    def command(self, task: str, gateway: Gateway) -> list[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def configure(self, home: Path, gateway: Gateway) -> dict[str, str]:
        """Write its settings into its HOME; return what stands in its environment, beside HOME and PATH."""

    @abstractmethod
    def steps(self, project: Path) -> list[Called]:
        """Return the calls of its tools that read a file, correct it, and run a command."""

    @abstractmethod
    def shown(self, output: str) -> Shown:
        """Read what it printed."""


class ClaudeCode(Agent):
    """``claude -p``: it prints what happens as JSON, a line each."""

    too_long = "Prompt is too long"

    def command(self, task: str, gateway: Gateway) -> list[str]:
        """Allow the three tools without asking; cut down, it has no others, and a prompt of ours."""
        program = installed() / "@anthropic-ai/claude-code-linux-x64/claude"
        options = ["--output-format", "stream-json", "--verbose", "--allowedTools", _TOOLS]
        cut_down = ["--tools", _TOOLS, "--system-prompt", _PROMPT] if gateway.small else []
        return [str(program), "-p", task, *options, *cut_down]

    def configure(self, home: Path, gateway: Gateway) -> dict[str, str]:  # noqa: ARG002 - it needs no file
        """Switch off its updates, telemetry and error reports, which one variable does."""
        return {
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_AUTH_TOKEN": gateway.key,
            "ANTHROPIC_MODEL": gateway.model,
            "ANTHROPIC_SMALL_FAST_MODEL": gateway.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **({"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1024"} if gateway.small else {}),
        }

    def steps(self, project: Path) -> list[Called]:
        """See ``Agent.steps``."""
        file = {"file_path": str(project / "greeting.txt")}
        return [
            Called("Read", file),
            Called("Edit", {**file, "old_string": "wrld", "new_string": "world"}),
            Called("Bash", {"command": _COMMAND, "description": "Copy the greeting"}),
        ]

    def shown(self, output: str) -> Shown:
        """Errors are its results, what its tools report as failed, and its retries."""
        events = [json.loads(line) for line in output.splitlines()]
        result = events[-1]
        blocks = [block for event in events if event["type"] == "user" for block in event["message"]["content"]]
        failed = [block["content"] for block in blocks if block.get("is_error")]
        retried = [str(event) for event in events if event.get("subtype") in {"api_retry", "api_error", "status"}]
        wrong = [str(result)] if result["is_error"] or result["permission_denials"] else []
        return Shown(result.get("result", ""), [*failed, *retried, *wrong])


class OpenCode(Agent):
    """``opencode run``: the same, in its own events."""

    too_long = "ContextOverflowError"

    def command(self, task: str, gateway: Gateway) -> list[str]:  # noqa: ARG002 - all stands in a file
        """See ``Agent.command``."""
        program = installed() / "opencode-linux-x64-baseline/bin/opencode"
        return [str(program), "run", "--format", "json", task]

    def configure(self, home: Path, gateway: Gateway) -> dict[str, str]:
        """Name the gateway as a provider with one model; have npm, which it asks for its plugins, stay offline."""
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{gateway.url}/v1", "apiKey": gateway.key},
            "models": {
                gateway.model: {"limit": {"context": gateway.context, "output": 64 if gateway.small else 8_192}}
            },
        }
        settings: dict[str, Any] = {"autoupdate": False, "share": "disabled", "provider": {"tollway": provider}}
        if gateway.small:
            settings["agent"] = {"build": {"prompt": _PROMPT}, "title": {"disable": True}}
            settings["compaction"] = {"auto": False}
            settings["tools"] = {"*": False, "read": True, "edit": True, "bash": True}
        model = f"tollway/{gateway.model}"
        folder = home / ".config" / "opencode"
        folder.mkdir(parents=True)
        (folder / "opencode.json").write_text(json.dumps({**settings, "model": model, "small_model": model}))
        return {"OPENCODE_DISABLE_MODELS_FETCH": "1", "npm_config_offline": "true"}

    def steps(self, project: Path) -> list[Called]:
        """See ``Agent.steps``."""
        file = {"filePath": str(project / "greeting.txt")}
        return [
            Called("read", file),
            Called("edit", {**file, "oldString": "wrld", "newString": "world"}),
            Called("bash", {"command": _COMMAND, "description": "Copy the greeting"}),
        ]

    def shown(self, output: str) -> Shown:
        """Errors are events of their own; those of tools stand in the tool's state."""
        events = [json.loads(line) for line in output.splitlines()]
        texts = [event["part"]["text"] for event in events if event["type"] == "text"]
        states: list[dict[str, Any]] = [event["part"]["state"] for event in events if event["type"] == "tool_use"]
        failed = [str(state) for state in states if state["status"] != "completed"]
        return Shown(texts[-1] if texts else "", [*failed, *(str(each) for each in events if each["type"] == "error")])


_PATCH = """*** Begin Patch
*** Update File: greeting.txt
@@
-Hello, wrld!
+Hello, world!
*** End Patch
"""
_CODEX = """
model = "{model}"
model_provider = "tollway"
model_catalog_json = "{catalogue}"
check_for_update_on_startup = false

[model_providers.tollway]
name = "Tollway"
base_url = "{url}/v1"
env_key = "TOLLWAY_KEY"
wire_api = "responses"

[analytics]
enabled = false

[features]
apps = false
plugins = false
"""
_CODEX_SMALL = ('web_search="disabled"', "agents.enabled=false", "features.goals=false")
"""Tools that a small model can do without; the first two are OpenAI's own."""


class Codex(Agent):
    """``codex exec``: the same, in its own events."""

    too_long = "Codex ran out of room"
    asides = re.compile("(?m)^(?:Reading additional input from stdin|WARNING: .* under temporary dir).*\n")
    """The input is no terminal, and HOME a test's."""

    def command(self, task: str, gateway: Gateway) -> list[str]:
        """Let it do everything: a sandbox within a container is more than the kernel gives."""
        program = installed() / "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"
        options = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        settings = [part for each in _CODEX_SMALL if gateway.small for part in ("--config", each)]
        return [str(program), "exec", *options, *settings, task]

    def configure(self, home: Path, gateway: Gateway) -> dict[str, str]:
        """Describe the gateway and its model, without which it warns; switch off what fetches plugins."""
        folder = home / ".codex"
        folder.mkdir()
        catalogue = folder / "models.json"
        catalogue.write_text(json.dumps({"models": [_codex_model(gateway)]}))
        written = _CODEX.format(model=gateway.model, url=gateway.url, catalogue=catalogue)
        (folder / "config.toml").write_text(written)
        return {"TOLLWAY_KEY": gateway.key}

    def steps(self, project: Path) -> list[Called]:  # noqa: ARG002 - it works in its own folder
        """Read by a command, for it has no tool of its own for that."""
        return [
            Called("exec_command", {"cmd": "cat greeting.txt"}),
            Called("apply_patch", {"input": _PATCH}),
            Called("exec_command", {"cmd": _COMMAND}),
        ]

    def shown(self, output: str) -> Shown:
        """Errors are items, and events of their own; retries are among them."""
        events = [json.loads(line) for line in output.splitlines()]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        texts = [item["text"] for item in items if item["type"] == "agent_message"]
        failed = [str(item) for item in items if item["type"] == "error" or item.get("status") == "failed"]
        wrong = [str(event) for event in events if event["type"] in {"error", "turn.failed"}]
        return Shown(texts[-1] if texts else "", [*failed, *wrong])


def _codex_model(gateway: Gateway) -> dict[str, Any]:
    """Describe a model to Codex, as ``codex debug models`` lists them."""
    return {
        "slug": gateway.model,
        "display_name": gateway.model,
        "base_instructions": _PROMPT,
        "context_window": gateway.context,
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "apply_patch_tool_type": "freeform",
        "shell_type": "unified_exec",
        "supports_parallel_tool_calls": True,
        "supported_reasoning_levels": [],
        "supports_reasoning_summaries": False,
        "support_verbosity": False,
        "experimental_supported_tools": [],
        "visibility": "list",
        "supported_in_api": True,
        "priority": 0,
    }


AGENTS: dict[str, Agent] = {"Claude Code": ClaudeCode(), "Codex": Codex(), "OpenCode": OpenCode()}
