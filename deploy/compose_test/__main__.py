"""Brings the stack up, uses it, breaks it in every way it should survive, and tears it down: `make compose-test`.

It uses the Docker that answers; where none does it starts an engine of its own, if it is root and dockerd is installed.

Exit code 0: every check passed, or there is no Docker and the reason is printed. 1: a check failed.
"""

import sys
import tempfile
import time
from pathlib import Path

import access
import checks
import dashboards
import engine
import images
from report import Failed, Report
from stack import Stack, expect_all_right, open_ports


def run_checks(report: Report, stack: Stack, folder: Path) -> None:
    """Everything the stack promises, one after another."""
    open_before = open_ports(checks.RAY_PORTS)
    with report.check("Prometheus accepts its rules, and they fire when they should"):
        dashboards.rules()
    with report.check("two workers join, every service is healthy"):
        stack.up()
        stack.groupconv("health")
    with report.check("gRPC and Prometheus alone are published, on loopback"):
        checks.ports(stack, open_before)
    with report.check("nothing runs as root"):
        checks.not_root(stack)
    with report.check("no root file system can be written"):
        checks.read_only(stack)
    with report.check("Ray refuses who has no token"):
        checks.token(stack)
    with report.check("the demo's checks pass through it"):
        said = stack.groupconv("demo", "--output", str(folder / "demo.png"), timeout=180)
        print(f"       {next(line for line in said.splitlines() if ' passed' in line)}", flush=True)
    with report.check("the load generator's answers are right"):
        expect_all_right(stack.compose("run", "--rm", "load", "--clients", "8", "--seconds", "5", timeout=120))
    with report.check("a worker dies under load and returns: every answer is right, none fails"):
        checks.worker_crash(stack)
    with report.check("a worker's network is cut under load and mended: every answer is right, none fails"):
        checks.network_cut(stack)
    with report.check("it scales to three workers and back, without a restart"):
        stack.up(workers=3)
        expect_all_right(stack.groupconv("load", "--clients", "4", "--seconds", "3"))
        stack.up(workers=2)
        expect_all_right(stack.groupconv("load", "--clients", "4", "--seconds", "3"))
    with report.check("the coordinator dies in the middle of a stream: the stream goes on"):
        checks.coordinator_crash(stack)
    with report.check("Locust's page runs a load"):
        dashboards.locust_page(stack)
    with report.check("every panel's query returns data after a load"):
        dashboards.every_panel_has_data(stack)
        dashboards.no_alert(stack)
    with report.check("SIGTERM drains the coordinator: exit code 0, late comers are told UNAVAILABLE"):
        checks.sigterm(stack)
    with report.check("with TLS and tokens it serves who has both, and refuses the others"):
        access.tls_and_tokens(stack, folder)


def main() -> int:
    """Find Docker, build, check, tear down."""
    start = time.monotonic()
    report = Report()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            with engine.docker(report, folder):
                images.build(report)
                stack = Stack(folder)
                try:
                    run_checks(report, stack, folder)
                except Failed:
                    print(stack.logs(), flush=True)
                    raise
                finally:
                    with report.step("tearing down"):
                        stack.down()
        except engine.NoEngine as reason:
            print(f"skipped: {reason}")
            return 0
        except Failed as failed:
            print(f"\n{failed}", flush=True)
            report.failed = max(1, report.failed)
    print(f"{report.passed} passed, {report.failed} failed in {time.monotonic() - start:.0f} s")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
