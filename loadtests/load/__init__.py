"""The parts of ``loadtests/locustfile.py``. ``answer``, ``figures`` and ``schedule`` work without locust."""
