r"""Load on a chat endpoint, with TTFT, TPOT, goodput and cost beside locust's own figures: docs/guide/load-tests.md.

    locust -f loadtests/locustfile.py --headless --users 8 --spawn-rate 8 --run-time 30s --stop-timeout 60 \
        --host http://127.0.0.1:8080 --model auto StreamUser

``StreamUser`` (the default), ``ChatUser``, ``MixedUser`` or ``ReplayUser``; the options are in ``load/options.py``.
"""

# mypy: untyped-calls-exclude=locust

from load.options import add_options
from load.run import choose_shape, report
from load.users import ChatUser, MixedUser, ReplayUser, StreamUser
from locust import events

__all__ = ["ChatUser", "MixedUser", "ReplayUser", "StreamUser"]

events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(choose_shape)
events.quitting.add_listener(report)
