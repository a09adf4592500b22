"""``python -m gateway``: the ``tollway`` command where it is not on the path."""

import sys

from gateway.cli import main

sys.exit(main())
