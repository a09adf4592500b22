"""What of a spec becomes an argument or a variable of vLLM. Nothing here imports vLLM."""

from workers.spec import ModelSpec
from workers.vllm_engine import engine_arguments, engine_environment


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate({"source": "org/name", **fields})


def pairs(arguments: list[str]) -> dict[str, str | None]:
    """Return the options with their values; none for a bare flag."""
    found: dict[str, str | None] = {}
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            value = arguments[index + 1] if index + 1 < len(arguments) else "--"
            found[argument] = None if value.startswith("--") else value
    return found


def test_the_model_is_served_under_the_workers_name() -> None:
    options = pairs(engine_arguments("small", "/models/x", spec(dtype="float32")))
    assert options["--model"] == "/models/x"
    assert options["--served-model-name"] == "small"
    assert options["--dtype"] == "float32"
    assert "--enable-prefix-caching" in options
    assert "--enable-prompt-tokens-details" in options


def test_tools_are_enabled_by_their_parser_alone() -> None:
    assert "--enable-auto-tool-choice" not in pairs(engine_arguments("m", "x", spec()))
    options = pairs(engine_arguments("m", "x", spec(tool_parser="hermes")))
    assert options["--tool-call-parser"] == "hermes"
    assert "--enable-auto-tool-choice" in options


def test_further_arguments_come_last_so_that_they_win() -> None:
    further = {
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "override_generation_config": {"temperature": 0.2},
        "seed": None,
    }
    arguments = engine_arguments("m", "x", spec(engine_args=further))
    assert arguments[-6:] == [
        "--max-model-len",
        "4096",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--override-generation-config",
        '{"temperature": 0.2}',
    ]


def test_no_usage_report_leaves_the_machine() -> None:
    environment = engine_environment(4, eager=False)
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_DO_NOT_TRACK"] == "1"
    assert environment["OMP_NUM_THREADS"] == "4"
    assert "TORCHDYNAMO_DISABLE" not in environment
    assert engine_environment(4, eager=True)["TORCHDYNAMO_DISABLE"] == "1", "nothing is compiled at a caller's cost"
