"""Measurements of the engines: what `bench/engine.py` and `groupconv bench engine` print."""
