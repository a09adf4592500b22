"""The ``workers:`` section: what may be written, and how a mistake is reported."""

import sys
from pathlib import Path

import pytest
import yaml

from workers.config.spec import ModelSpec, load_workers, read_workers
from workers.errors import WorkerError

QUICKSTART = Path(__file__).parents[4] / "deploy" / "quickstart" / "tollway.yaml"


def parse_workers(section: object) -> dict[str, ModelSpec]:
    specs, problems = read_workers(section)
    if problems:
        raise WorkerError(str(problems[0]))
    return specs


def test_the_quickstart_for_gpus_asks_ray_for_one() -> None:
    (spec,) = load_workers(QUICKSTART.with_name("tollway-gpu.yaml")).values()
    assert spec.gpus_per_replica == 1
    assert not spec.engine_args.keys() & {"enforce_eager", "kv_cache_memory_bytes", "block_size"}, "the CPU's limits"


def test_the_quickstart_is_valid() -> None:
    spec = load_workers(QUICKSTART)["smollm2"]
    assert spec.source == "bundled:smollm2-135m-instruct"
    assert spec.tool_parser == "hermes"


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("several-models", ["generate", "generate", "embed"]), ("interview", ["transcribe", "generate"])],
)
def test_an_example_of_several_models_is_valid(name: str, tasks: list[str]) -> None:
    """The gateway's models in it are the names that its workers serve."""
    example = QUICKSTART.parents[1] / "examples" / f"{name}.yaml"
    specs = load_workers(example)
    assert [spec.task for spec in specs.values()] == tasks
    served = [name for worker, spec in specs.items() for name in spec.serves(worker)]
    assert sorted(served) == sorted(yaml.safe_load(example.read_text(encoding="utf-8"))["models"])
    assert sum(spec.cpus_per_replica for spec in specs.values()) <= 2, "it starts on two cores"


def test_the_interviews_chat_model_is_the_one_that_runs_beside_others() -> None:
    """The engine's tests start it once for both examples, with an adapter and a parser of tools on top."""
    interview, several = (
        load_workers(QUICKSTART.parents[1] / "examples" / f"{name}.yaml")["smollm2"]
        for name in ("interview", "several-models")
    )
    assert interview == several.model_copy(update={"lora": interview.lora, "tool_parser": interview.tool_parser})


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
        ({"m": {"source": "x", "lora": {"adapters": {"a b": "/x"}}}}, "workers.m.lora.adapters.a b"),
        ({"m": {"source": "x", "kv_cache_memory": "much"}}, "workers.m.kv_cache_memory"),
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
    [
        ("a: [", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML: month must be"),
        (2 * sys.getrecursionlimit() * "[", "not valid YAML"),
        ("- a", "must be a mapping"),
        (None, "No such file"),
    ],
    ids=["yaml", "date", "depth", "list", "missing"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "tollway.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(WorkerError, match=said) as caught:
        load_workers(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"tensor_parallel_size": 2}, "there is no such key; did you mean 'tensor_parallel'?"),
        ({"zzz": 2}, "there is no such key; known: source, revision"),
        ({"lora": {"max_rnk": 8}}, "workers.m.lora.max_rnk: there is no such key; did you mean 'max_rank'?"),
        ({"task": "embedd"}, "'embedd' is none of generate, embed, classify, transcribe; did you mean 'embed'?"),
        ({"replicas": 2, "autoscaling": {"max_replicas": 3}}, "give `replicas` or `autoscaling`, not both"),
        ({"speculative": {"tokens": 3}}, "say a `method` that needs no model, such as ngram, or the draft `model`"),
        ({"gpus_per_replica": 3, "tensor_parallel": 2}, "gpus_per_replica is 3, but tensor_parallel x"),
        ({"accelerator": "L4", "gpus_per_replica": 0}, "an `accelerator` is named, but gpus_per_replica is 0"),
        ({"max_model_len": 8, "engine_args": {"max_model_len": 9}}, "is said again by engine_args.max_model_len"),
        ({"engine_args": {"served-model-name": "x"}}, "cannot set `served-model-name`, which the replica sets itself"),
        (
            {"engine_args": {"tensor-parallel-size": 2}},
            "say `tensor_parallel` and not engine_args.tensor-",
        ),
        ({"served_names": ["a b"]}, "'a b' is no name"),
        ({"served_names": ["m"]}, "the name 'm' is served twice, by 'm' too"),
        ({"served_names": ["tollway"]}, "the name 'tollway' is taken by the directory of replicas"),
        ({"lora": {"adapters": {"m": "/x"}}}, "the name 'm' is served twice, by 'm' too"),
        ({"source": "~no-such-user/x"}, "'~no-such-user/x' is no path"),
        ({"source": "/" + 300 * "x"}, "is no path: [Errno 36] File name too long"),
        ({"usd_per_hour": float("inf")}, "workers.m.usd_per_hour: input should be a finite number"),
        ({"autoscaling": {"max_replicas": 1, "target_requests": float("nan")}}, "should be a finite number"),
        ({"synthetic": {"start_s": float("inf")}}, "workers.m.synthetic.start_s: input should be a finite number"),
    ],
)
def test_mistake_is_reported_with_how_to_mend_it(spec: dict[str, object], said: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse_workers({"m": {"source": "x", **spec}})
    assert said in str(caught.value)


def test_one_mistake_is_one_problem() -> None:
    """A default that follows from other fields is not reported beside a field that is wrong."""
    _, problems = read_workers({"m": {"source": "x", "dtype": "float31"}})
    assert [problem.place for problem in problems] == [("workers", "m", "dtype")]


def test_a_link_that_leads_to_itself_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(WorkerError, match="is no path: Symlink loop"):
        parse_workers({"m": {"source": str(tmp_path / "loop")}})


def test_a_name_is_served_by_one_worker_only() -> None:
    section = {"a": {"source": "x", "lora": {"adapters": {"pirate": "/x"}}}, "b": {"source": "x"}}
    assert list(parse_workers(section)) == ["a", "b"]
    with pytest.raises(WorkerError, match="'pirate' is served twice, by 'a' too"):
        parse_workers(section | {"b": {"source": "x", "served_names": ["pirate"]}})
    with pytest.raises(WorkerError, match="the name 'tollway' is taken"):
        parse_workers({"tollway": {"source": "x"}})


def test_a_mistake_in_a_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "tollway.yaml"
    path.write_text("workers:\n  m:\n    source: x\n    dtyp: float32\n", encoding="utf-8")
    with pytest.raises(WorkerError) as caught:
        load_workers(path)
    assert str(caught.value) == f"{path}:4: workers.m.dtyp: there is no such key; did you mean 'dtype'?"


def test_a_worker_serves_its_own_name_first_and_adapters_last() -> None:
    section = {"m": {"source": "x", "served_names": ["org/m"], "lora": {"adapters": {"pirate": "/x"}}}}
    assert parse_workers(section)["m"].serves("m") == ("m", "org/m", "pirate")


def test_paths_are_made_whole_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica may have another working directory; hub ids and addresses are left alone."""
    monkeypatch.chdir(tmp_path)
    spec = parse_workers({"m": {"source": "./m", "lora": {"adapters": {"a": "./a", "b": "org/b"}}}})["m"]
    assert spec.source == str(tmp_path / "m")
    assert spec.adapters == {"a": str(tmp_path / "a"), "b": "org/b"}
    for source in ("org/name", "s3://bucket/m", "bundled:x"):
        assert parse_workers({"m": {"source": source}})["m"].source == source


@pytest.mark.parametrize(
    ("spec", "gpus"),
    [
        ({}, 0),
        ({"accelerator": "L4"}, 1),
        ({"tensor_parallel": 2, "pipeline_parallel": 2}, 4),
        ({"data_parallel": 3}, 3),
        ({"tensor_parallel": 2, "gpus_per_replica": 0}, 0),
    ],
)
def test_the_gpus_of_a_replica_follow_from_its_parallelism(spec: dict[str, object], gpus: int) -> None:
    """On CPUs, parallelism needs the explicit word that there are none."""
    assert parse_workers({"m": {"source": "x", **spec}})["m"].gpus_per_replica == gpus
