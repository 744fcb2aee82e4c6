"""The rates of tokens hold for all processes of a server together."""

import threading
from contextlib import ExitStack

import grpc
import numpy as np

import groupconv
from groupconv.errors import ResourceExhaustedError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from waiting import until

X, ONE = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 1), np.float32)


def start(tokens):
    return Supervisor(Config(port=0, executor="local", engine="reference", processes=2, tokens=tokens))


def test_limits_of_tokens_hold_for_all_processes(tmp_path):
    slow = {"rate": CallerLimits(requests_per_second=0.001), "bytes": CallerLimits(bytes_per_second=1)}
    secrets, tokens = {name: new_token() for name in slow}, tmp_path / "tokens.toml"
    tokens.write_text("".join(entry_text(name, secrets[name], limits) for name, limits in slow.items()))
    with start(tokens=tokens) as server:
        for token in secrets.values():
            refused = 0
            with groupconv.connect(server.address, timeout=60, connections=8, token=token) as client:
                for _ in range(8):
                    try:
                        client.conv1d(X, ONE)
                    except ResourceExhaustedError:
                        refused += 1
            assert refused == 7


def test_requests_at_a_time_of_a_token_are_counted_over_all_processes(tmp_path):
    token, tokens = new_token(), tmp_path / "tokens.toml"
    tokens.write_text(entry_text("alice", token, CallerLimits(concurrent=2)))
    with start(tokens=tokens) as server, ExitStack() as opened:
        streams = []
        for _ in range(8):  # the kernel chooses the process of each connection
            channel = opened.enter_context(grpc.insecure_channel(server.address))
            infer = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            over = threading.Event()
            opened.callback(over.set)
            streams.append(infer(iter(over.wait, True), metadata=[("authorization", f"Bearer {token}")]))

        def codes():
            return [stream.code().name for stream in streams if stream.done()]

        until(lambda: len(codes()) == 6)
        assert codes() == ["RESOURCE_EXHAUSTED"] * 6
