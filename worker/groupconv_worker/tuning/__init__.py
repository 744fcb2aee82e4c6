"""Choosing among candidates by measurement: runs in gaps of the work, and choices kept in files."""
