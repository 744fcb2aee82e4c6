"""Shards by lanes: connections of this process to workers in other processes, whoever started these. No Ray here.

lane.py           the connections to one worker; connection.py is one of them
lane_calls.py     a shard by a lane; failures.py has what a worker reports
flights.py        a shard in flight
worker_slots.py   one worker
membership.py     the workers, and which of them takes a shard
dispatch.py       the shards of one request to workers, and again where one was lost
network_calls.py  calls of networks, by lanes or through Ray
executor.py       what the coordinator sees of another process's workers
"""
