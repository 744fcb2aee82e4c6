"""Fuzzing: broken messages for every decoder, and for a live server. `make fuzz`, `python -m fuzzing --help`."""
