"""Loads against a server, with Locust."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

import groupconv
from groupconv.errors import ResourceExhaustedError, UnavailableError
from groupconv_server.load.drive import Load
from groupconv_server.load.outcome import LoadOutcome
from groupconv_server.load.plot import plot
from groupconv_server.load.profile import Profile
from groupconv_server.load.requester import Sample
from groupconv_server.load.schedule import Schedule
from waiting import until

LAYER = "mobilenet_dw_14"


def profile(**fields):
    return Profile.model_validate({"users": 2, "seconds": 0.5, "verify": 1, "mix": [{"layer": LAYER}], **fields})


def load(server, **fields):
    return Load(profile(**fields), lambda: groupconv.connect(server.address, timeout=30), target=server.address)


def test_a_mix_is_answered_and_reported(server, tmp_path):
    mix = [{"layer": LAYER}, {"layer": LAYER, "resident": True, "batch": 2}, {"layer": LAYER, "transport": "stream"}]
    loaded = load(server, mix=mix)
    outcome = loaded.run()
    assert "0 wrong, 0 failed" in outcome.summary()
    assert outcome.answers == len(outcome.samples) > 0
    assert [row[0] for row in outcome.rows()][1:] == [LAYER, f"{LAYER} batch 2 resident", f"{LAYER} stream"]
    page = loaded.report()
    assert f"{LAYER} batch 2 resident" in page
    assert server.address in page
    plot(outcome, tmp_path / "load.png", title="mix")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def test_each_cut_can_be_put_under_load(server):
    mix = [{"layer": LAYER, "cut": "rows"}, {"layer": LAYER, "cut": "group", "resident": True}]
    with load(server, mix=mix) as loaded:
        outcome = loaded.run()
    assert "0 wrong, 0 failed" in outcome.summary()
    assert [row[0] for row in outcome.rows()][1:] == [f"{LAYER} cut rows", f"{LAYER} resident cut group"]


def test_a_wrong_answer_is_counted(server, client):
    resident = {"layer": LAYER, "resident": True}
    loaded = load(server, mix=[resident])
    case = loaded.cases[0]
    # the server answers, rightly, with other weights than the load thinks it has
    client.load_layer(case.layer, case.weight + 1, case.bias, case.spec)
    outcome = loaded.run()
    assert outcome.answers == 0
    assert outcome.wrong == len(outcome.samples) > 0
    assert loaded.environment.stats.total.num_failures == outcome.wrong
    assert "wrong: expected an error up to" in outcome.summary()


def test_layers_that_a_server_forgot_are_loaded_again(server, client):
    loaded = load(server, mix=[{"layer": LAYER, "resident": True}])
    client.unload_layer(loaded.cases[0].layer)
    assert "0 wrong, 0 failed" in loaded.run().summary()


def layers_of_loads(client):
    return [layer.name for layer in client.list_layers() if layer.name.startswith("load/")]


def test_a_load_takes_its_layers_away(server, client):
    before = layers_of_loads(client)
    with load(server, mix=[{"layer": LAYER, "resident": True}]) as loaded:
        assert layers_of_loads(client) == sorted([*before, loaded.cases[0].layer])
        assert loaded.run().answers
    assert layers_of_loads(client) == before


def test_a_load_that_cannot_begin_takes_its_layers_away(server, client):
    """The second kind of request is refused: its message is larger than the server takes."""
    before = layers_of_loads(client)
    mix = [{"layer": LAYER, "resident": True}, {"layer": "mobilenet_dw_112", "batch": 16, "resident": True}]
    with pytest.raises(ResourceExhaustedError):
        load(server, mix=mix)
    assert layers_of_loads(client) == before


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_load_that_is_stopped_takes_its_layers_away(number, server, client, tmp_path):
    before = layers_of_loads(client)
    (tmp_path / "mix.yaml").write_text(f"seconds: 600\nusers: 2\nmix: [{{layer: {LAYER}, resident: true}}]\n")
    command = ["env", "--default-signal=INT", sys.executable, "-m", "groupconv_server", "load", "-t", server.address]
    command += ["--profile", str(tmp_path / "mix.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: layers_of_loads(client) != before)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert layers_of_loads(client) == before


def test_no_number_is_nan_where_there_are_no_answers():
    outcome = LoadOutcome(["one", "two"])
    outcome.add(Sample(0, 1.0, 0.1, failed="UnavailableError: gone"))
    for elapsed in (0.0, 2.0):
        outcome.elapsed = elapsed
        assert "nan" not in outcome.summary() + str(list(outcome.rows()))
        assert "p50 – ms" in outcome.summary()


def test_latency_counts_from_when_a_request_was_due(server):
    """A server that cannot keep up is charged for the requests that waited for it."""
    loaded = load(server, users=1, rate=5000, verify=0)
    outcome = loaded.run()
    schedule = Schedule(loaded.profile)
    for sample in outcome.samples:  # one user: in the order they were due
        due, _, _ = schedule.next()
        assert sample.seconds == pytest.approx(sample.ended - outcome.start - due)
    assert outcome.missed > 0


def test_no_server_is_said_at_once():
    with pytest.raises(UnavailableError):
        Load(profile(), lambda: groupconv.connect("127.0.0.1:1", timeout=60), target="127.0.0.1:1")


def test_locust_s_page_runs_the_load(server, tmp_path):
    """As a user of the command line does: started with flags that Locust does not know."""
    command = [str(Path(sys.executable).with_name("groupconv")), "load", "--layer", LAYER, "--target", server.address]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with subprocess.Popen([*command, "--web", address], stderr=subprocess.PIPE, text=True) as page:
        try:
            form = urlencode({"user_count": 2, "spawn_rate": 2}).encode()
            while not answers(address):
                assert page.poll() is None, page.stderr.read()
            with urlopen(f"http://{address}/swarm", form, timeout=10) as started:
                assert json.load(started)["success"]
            while (stats := get(f"http://{address}/stats/requests"))["total_rps"] == 0:
                assert page.poll() is None
            assert stats["fail_ratio"] == 0
        finally:
            page.terminate()


def answers(address):
    try:
        return get(f"http://{address}/stats/requests")
    except OSError:
        return None


def get(url):
    with urlopen(url, timeout=10) as answer:
        return json.load(answer)
