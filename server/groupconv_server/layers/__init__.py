"""Resident layers: their registry, versions, files."""
