"""Admission: which calls come in, how many, and how long they wait."""
