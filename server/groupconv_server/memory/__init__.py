"""Clients' shared memory and device memory, and the process's own."""
