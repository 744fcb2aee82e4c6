"""Whole networks as one program: a graph's nodes become stages on channel-blocked maps in one arena."""
