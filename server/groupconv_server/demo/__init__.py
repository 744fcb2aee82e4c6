"""The demo: all variants on a photograph, checked against the reference and drawn."""
