"""Shards by lanes: connections of this process to workers in other processes, whoever started these. No Ray here.

lane.py          the connections to one worker
lane_calls.py    a shard by a lane
flights.py       a shard in flight
worker_slots.py  one worker
membership.py    the workers, and which of them takes a shard
dispatch.py      the shards of one request to workers, and again where one was lost
"""
