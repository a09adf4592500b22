"""Identifiers: ours, unique, unguessable, and in the order in which a database likes them."""

import re
import subprocess
import sys

from gateway.accounting.ids import random_ids

FORK = """
import os
from gateway.accounting.ids import random_ids
random_ids("before")
pid = os.fork()
ids = " ".join(random_ids("att") for _ in range(300))
if pid:
    os.waitpid(pid, 0)
os.write(1, ids.encode() + b"\\n")
"""


def test_identifiers_are_unique_and_grow_with_time() -> None:
    """A prefix, milliseconds and 80 random bits; none repeats, and those of a later millisecond sort behind."""
    made = [random_ids("att") for _ in range(2_000)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"att_[0-9a-f]{32}", one) for one in made)
    assert len({one[-20:] for one in made}) == len(made)
    times = [one[:-20] for one in made]
    assert times == sorted(times)


def test_a_forked_process_makes_other_identifiers() -> None:
    """Parent and child share no random digits, however much was drawn before the fork."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, check=True, timeout=30)
    tails = [one[-20:] for one in done.stdout.decode().split()]
    assert len(tails) == len(set(tails)) == 600
