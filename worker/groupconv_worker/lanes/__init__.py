"""Lanes: a coordinator's own connections to a worker, beside Ray.

On the same node a lane is a Unix socket over which a few bytes say what is to run, and memory that both sides have
mapped, in which the arrays lie. Between nodes it is TCP, and the arrays follow the words. Who does not prove to know
the key is not listened to; nothing is pickled. docs/lanes.md says why it is not gRPC.

    frames.py    words on a socket, and a file descriptor with them      handshake.py   who is there
    shards.py    what is to run, said once per connection                memory.py      where arrays lie
    endpoint.py  the worker's side; the coordinator's is groupconv_server.executors.ray.lanes
"""
