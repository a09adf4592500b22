"""The ``workers:`` section: what may be written, and what a mistake is told."""

from pathlib import Path

import pytest

from workers.errors import WorkerError
from workers.spec import load_workers, parse_workers

QUICKSTART = Path(__file__).parents[3] / "deploy" / "quickstart" / "tollway.yaml"


def test_the_quickstart_for_gpus_asks_ray_for_one() -> None:
    (spec,) = load_workers(QUICKSTART.with_name("tollway-gpu.yaml")).values()
    assert spec.gpus_per_replica == 1
    assert not spec.engine_args.keys() & {"enforce_eager", "kv_cache_memory_bytes", "block_size"}, "the CPU's limits"


def test_the_quickstart_is_valid() -> None:
    spec = load_workers(QUICKSTART)["smollm2"]
    assert spec.source == "bundled:smollm2-135m-instruct"
    assert spec.tool_parser == "hermes"


def test_a_source_is_all_that_a_worker_needs() -> None:
    spec = parse_workers({"m": {"source": "org/name"}})["m"]
    assert (spec.engine, spec.replicas) == ("vllm", 1)
    assert spec.max_queued_requests < 1000, "a queue without a bound is Serve's default, never ours"


def test_no_section_is_no_worker() -> None:
    assert parse_workers(None) == {}


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"m": {}}, "workers.m.source"),
        ({"m": {"source": "x", "replica": 2}}, "workers.m.replica"),
        ({"m": {"source": "x", "replicas": 0}}, "workers.m.replicas"),
        ({"m": {"source": "x", "engine": "ollama"}}, "workers.m.engine"),
        ({"m": {"source": "x", "synthetic": {"tpot": 1}}}, "workers.m.synthetic.tpot"),
        ({"../m": {"source": "x"}}, "workers.../m"),
        ({"M M": {"source": "x"}}, "workers.M M"),
        (["m"], "workers"),
    ],
)
def test_a_mistake_is_named_by_its_place(section: object, named: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse_workers(section)
    assert str(caught.value).startswith(named + ":")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "not valid YAML"), ("- a", "must be a mapping"), (None, "No such file")],
    ids=["yaml", "list", "missing"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "tollway.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(WorkerError, match=said) as caught:
        load_workers(path)
    assert "\n" not in str(caught.value)
