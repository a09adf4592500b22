"""The exception that the workers' commands print as one sentence."""


class WorkerError(Exception):
    """A failure that its reader can act on.

    Its text is one plain sentence without a trailing newline; commands print it as it is, without a traceback, and
    exit non-zero.
    """
