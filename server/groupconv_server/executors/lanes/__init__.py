"""Shards and networks by lanes: connections of this process to workers in other ones. No Ray here.

lane.py                the connections to one worker; connection.py is one of them
lane_calls.py          a shard by a lane; failures.py has what a worker reports
lane_network_calls.py  a call of a network by a lane
flights.py             a shard in flight
worker_slots.py        one worker
membership.py          the workers, and which of them takes a shard
dispatch.py            the shards of one request to workers, and again where one was lost; waiting.py waits for them
network_dispatch.py    a call of a network to a worker, and again where that was lost
remote.py              what all executors share whose workers are other processes
executor.py            the executor of a process that did not start the workers
"""
