"""The canonical form of a graph: one way to say each thing, and fused nodes. `form.canonical` makes it."""
