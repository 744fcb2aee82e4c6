"""Prometheus has the figures, every query of Grafana's panels finds some, and Locust's page runs a load."""

import json
import urllib.parse
import urllib.request
from typing import Any

from images import IMAGES
from report import ROOT, Failed, expect, run, wait_until
from stack import Stack, expect_all_right

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "groupconv.json"
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$layer": ".*"}
"""What Grafana would put in their place: four scrapes or more, everything, everything."""


def rules() -> None:
    """Promtool accepts the configuration, and the rules fire when they should."""
    image = list(IMAGES)[-1]
    promtool = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "promtool")
    mount = ("--volume", f"{ROOT / 'deploy' / 'prometheus'}:/etc/groupconv:ro", image)
    run(*promtool, *mount, "check", "config", "/etc/groupconv/prometheus.yml", timeout=60)
    run(*promtool, *mount, "test", "rules", "/etc/groupconv/rules.test.yml", timeout=60)


def ask(url: str, **form: str) -> Any:
    """JSON from a GET, or from a POST of a form."""
    try:
        data = urllib.parse.urlencode(form).encode() if form else None
        with urllib.request.urlopen(url, data, timeout=10) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise Failed(f"{url}: {error}") from None


def panels() -> list[tuple[str, str]]:
    """Title and query of each target of the dashboard; those of GPUs find nothing here."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    return [(title, query) for title, query in found if "groupconv_gpu_" not in query]


def every_panel_has_data(stack: Stack) -> None:
    """Each query of the dashboard's finds figures after a load that has layers and streams."""
    expect_all_right(stack.groupconv("load", "--profile", "mix", "--clients", "4", "--seconds", "20", timeout=120))
    empty = []

    def count_empty() -> bool:
        empty[:] = [title for title, query in panels() if not _has_figures(stack, query)]
        return not empty

    wait_until(count_empty, f"no data in {empty}", timeout=30)
    expect(not empty, f"no data in {empty}")
    print(f"       {len(panels())} queries of {len({title for title, _ in panels()})} panels have data", flush=True)


def _has_figures(stack: Stack, query: str) -> bool:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    encoded = urllib.parse.quote(query)
    answer = ask(f"http://127.0.0.1:{stack.prometheus}/api/v1/query?query={encoded}")
    return any(series["value"][1] != "NaN" for series in answer["data"]["result"])


def no_alert(stack: Stack) -> None:
    """Nothing that pages fires on a stack that is well."""
    answer = ask(f"http://127.0.0.1:{stack.prometheus}/api/v1/alerts")
    firing = [a["labels"]["alertname"] for a in answer["data"]["alerts"] if a["state"] == "firing"]
    expect(not {"GroupconvDown", "GroupconvNoWorkers", "GroupconvErrors"} & set(firing), f"firing: {firing}")


def locust_page(stack: Stack) -> None:
    """Locust's page is served on loopback, starts a load and shows its figures."""
    up = ("--profile", "load", "up", "--detach", "--wait", "--no-build", "--no-recreate", "--no-deps", "load")
    stack.compose(*up, timeout=90)
    page = f"http://127.0.0.1:{stack.page}"
    ask(f"{page}/swarm", user_count="2", spawn_rate="2")
    wait_until(lambda: ask(f"{page}/stats/requests")["stats"][-1]["num_requests"] > 20, "no figures", timeout=60)
    total = ask(f"{page}/stats/requests")["stats"][-1]
    expect(total["num_failures"] == 0, f"failures: {total}")
    print(f"       {total['num_requests']} requests of Locust's page, 0 failed", flush=True)
    stack.compose("--profile", "load", "rm", "--force", "--stop", "load", timeout=60)
