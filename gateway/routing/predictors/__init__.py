"""Predictors: ``measured`` reads off what the pool has measured, ``cost`` turns tokens and time into nano-dollars."""
