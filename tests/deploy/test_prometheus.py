"""Alerts and the dashboard: they fire when they should, lead to the runbook, and name metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from debian import UnavailableError, unpack

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/groupconv.json").read_text())
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.fixture(scope="module")
def promtool(tmp_path_factory):
    """Prometheus's own checker: of this machine, or from its distribution's package."""
    if found := shutil.which("promtool"):
        return found
    folder = tmp_path_factory.mktemp("prometheus")
    try:
        unpack("prometheus", folder)
    except UnavailableError as error:
        pytest.skip(f"no promtool, and apt-get brings none: {error}")
    return str(folder / "usr/bin/promtool")


@pytest.mark.slow  # make compose-test runs the same where a Docker engine answers
@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules.test.yml")])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(promtool, arguments):
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_test_that_it_fires_and_one_that_it_does_not(rule):
    checks = [c for test in TESTS for c in test["alert_rule_test"] if c["alertname"] == rule["alert"]]
    assert {bool(check["exp_alerts"]) for check in checks} == {True, False}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_its_section_of_the_runbook(rule):
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/blob/main/docs/runbook.md")
    assert anchor in [title.lower() for title in re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)]
    assert anchor == rule["alert"].lower()
    assert rule["labels"]["severity"] in ("page", "warn")


def test_the_runbook_has_a_section_for_each_alert_and_no_other():
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_one_alert_says_that_nothing_is_scraped():
    """Every other one is silent where there are no series."""
    assert [rule["alert"] for rule in RULES if "absent(" in rule["expr"]] == ["GroupconvAbsent"]


@pytest.mark.parametrize("query", [rule["expr"] for rule in RULES] + EXPRESSIONS)
def test_a_query_asks_for_metrics_that_are_documented(query):
    documented = set(re.findall(r"`(groupconv_\w+)`", (ROOT / "docs/observability.md").read_text()))
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"groupconv_\w+", query)}
    assert asked <= documented


def test_the_dashboard_takes_any_data_source_and_chooses_coordinators_and_layers():
    assert list(VARIABLES) == ["datasource", "instance", "layer"]
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    users = [*DASHBOARD["panels"], *DASHBOARD["annotations"]["list"], VARIABLES["instance"], VARIABLES["layer"]]
    assert [user["datasource"]["uid"] for user in users] == ["${datasource}"] * len(users)
    for name in ("instance", "layer"):
        assert VARIABLES[name]["includeAll"]
        assert VARIABLES[name]["multi"]


@pytest.mark.parametrize("query", EXPRESSIONS)
def test_a_panel_shows_what_is_chosen(query):
    metrics = re.findall(r"\b(?:groupconv|process)_\w+(?:\{([^}]*)\})?", query)
    assert metrics
    assert all('instance=~"$instance"' in labels for labels in metrics)
    if "groupconv_layer_" in query:
        assert all('layer=~"$layer"' in labels for labels in metrics)


def test_panels_lie_side_by_side():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
