"""Figures: counted in one process, read in another, continued after a death."""

import multiprocessing
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.figures import Figures, read_all

BOUNDS = (0.1, 1.0)


def _count(path: Path, times: int) -> None:
    figures = Figures(path)
    cell = figures.counter("requests", ("auto", "ok"))
    seconds = figures.histogram("seconds", ("auto",), BOUNDS)
    for number in range(times):
        figures.values[cell] += 1
        seconds.observe(number)


def test_a_value_on_a_bound_lies_within_it() -> None:
    """As Prometheus has it: ``le`` is less or equal; the last two cells are +Inf's count and the sum."""
    figures = Figures()
    seconds = figures.histogram("seconds", ("auto",), BOUNDS)
    for value in (0.05, 0.1, 0.5, 1.0, 3.0):
        seconds.observe(value)
    assert figures.read() == {("seconds", ("auto",)): [2, 2, 1, pytest.approx(4.65)]}


@given(st.lists(st.integers(0, 40)))
def test_histogram_counts_many_values_like_one_by_one(values: list[int]) -> None:
    """Whatever their order, with values on the bounds among them."""
    figures = Figures()
    one_by_one = figures.histogram("one", (), (5, 10, 20.0))
    at_once = figures.histogram("all", (), (5, 10, 20.0))
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all([float(value) for value in values])
    assert figures.read()["all", ()] == figures.read()["one", ()]


@pytest.mark.slow
def test_processes_are_added_up_while_they_live_and_after(tmp_path: Path) -> None:
    """Three processes, one of them still here: what is read is the sum, of the same series and of different ones."""
    paths = [tmp_path / f"worker-{number}" for number in range(3)]
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_count, args=(path, 4)) for path in paths[:2]]
    for child in children:
        child.start()
    mine = Figures(paths[2])
    mine.values[mine.counter("requests", ("other", "ok"))] += 7
    mine.values[mine.counter("requests", ("auto", "ok"))] += 1
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert read_all(paths) == {
        ("requests", ("auto", "ok")): [9],
        ("requests", ("other", "ok")): [7],
        ("seconds", ("auto",)): [2, 2, 4, 12],
    }


def test_reopened_figures_go_on_counting(tmp_path: Path) -> None:
    """A counter never goes back, though the process that kept it died; a name that was cut short is none."""
    path = tmp_path / "worker-0"
    _count(path, 3)
    with path.with_suffix(".names").open("ab") as names:
        names.write(b'["requests",["au')
    _count(path, 2)
    later = Figures(path)
    later.values[later.counter("requests", ("auto", "late"))] += 1
    assert read_all([path]) == {
        ("requests", ("auto", "ok")): [5],
        ("seconds", ("auto",)): [2, 2, 1, 4],
        ("requests", ("auto", "late")): [1],
    }


def test_the_cells_have_their_disk_from_the_start(tmp_path: Path) -> None:
    """A mapped page without disk kills the process that writes to it, and with it all its streams."""
    Figures(tmp_path / "0.figures")
    file = (tmp_path / "0.figures").stat()
    assert file.st_blocks * 512 >= file.st_size > 0


def test_a_name_that_the_disk_refuses_is_written_with_the_next(tmp_path: Path) -> None:
    """Counting goes on meanwhile; and a successor that does not know the name does not take over its count."""
    path = tmp_path / "0.figures"
    figures = Figures(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_suffix(".names").stat().st_size + 8, hard))
    try:
        figures.values[figures.counter("requests", ("refused",))] += 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Figures(path).counter("requests", ("another",)) == 0
    assert read_all([path]) == {("requests", ("another",)): [0]}
    (tmp_path / "0.names").write_bytes(b"")
    figures.values[0] = 3
    figures.counter("requests", ("late",))
    assert read_all([path]) == {("requests", ("refused",)): [3], ("requests", ("late",)): [0]}


def test_figures_without_a_size_count_nothing(tmp_path: Path) -> None:
    """A scrape may come while a process starts."""
    (tmp_path / "0.figures").touch()
    assert read_all([tmp_path / "0.figures"]) == {}
