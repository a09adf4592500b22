"""Tollway's workers: open models on Ray Serve and vLLM, each reached over HTTP."""
