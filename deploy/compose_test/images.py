"""The images of the stack. `python3 deploy/compose_test/images.py` builds them ahead of the test.

It needs no package, so CI builds them while it still makes the environment. A Docker has to answer.
"""

import sys

from report import Failed, Report, run

IMAGES = {
    "groupconv:compose-test": ["."],
    "groupconv-load:compose-test": ["--build-arg", "EXTRA=load", "."],
    "groupconv-prometheus:compose-test": ["--file", "deploy/prometheus.Dockerfile", "deploy/prometheus"],
}


def build(report: Report) -> None:
    """Build what is not built yet."""
    for image, how in IMAGES.items():
        with report.step(f"building {image}"):
            run("docker", "build", "--network", "host", "--tag", image, *how, timeout=900)


if __name__ == "__main__":
    try:
        build(Report())
    except Failed as failed:
        sys.exit(str(failed))
