"""Lanes: a coordinator's own connections to a worker, beside Ray. Links between workers start here, too.

On the same node a lane is a Unix socket that carries short frames, and memory that both sides have mapped, which
contains the arrays. Between nodes it is TCP, and the arrays follow the frames. A caller must prove that it knows the
key; nothing is pickled. docs/lanes.md says why it is not gRPC.

    frames.py    frames on a socket, and a file descriptor with them     handshake.py   proof of the key
    shards.py    the definition of a shard, sent once per connection     memory.py      shared memory of arrays
    sockets.py   connections, and what TCP is set to
    endpoint.py  the worker's side; the coordinator's is groupconv_server.executors.lanes.lane
"""
