"""The whole gateway in virtual time, in front of modelled targets that a trace of requests drives."""
