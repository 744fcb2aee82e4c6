"""Cuts of whole networks: candidates for each node, what they cost, and the cheapest choice for all nodes together."""
