"""Calls over a channel."""
