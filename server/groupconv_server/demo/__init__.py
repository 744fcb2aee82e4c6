"""The demo: every variant on a real photograph, checked against the reference and drawn."""
