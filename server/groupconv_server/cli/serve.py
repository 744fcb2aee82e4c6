"""`groupconv serve`: run a server until SIGTERM."""

import logging

import typer

from groupconv_server.access.variables import check_variables
from groupconv_server.cli.setting_options import takes_settings
from groupconv_server.settings import PREFIX, Settings
from groupconv_server.telemetry.foreign_lines import as_json

EXAMPLES = """Examples:

$ groupconv serve

$ groupconv serve --port 0 --workers 2 --threads 1

$ groupconv serve --executor ray --workers 4

$ groupconv serve --ray-address auto --workers auto --worker-gpus 0.5 --worker-labels zone=a

$ groupconv serve --allow-shared-memory --layer-dir layers

$ groupconv serve --executor ray --max-batch 8

$ groupconv serve --processes 4

$ groupconv serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --ray-address auto

$ groupconv serve --metrics-port 9464 --log-format json

$ groupconv serve --web-port 8080
"""


@takes_settings
def command(settings: Settings) -> None:
    """Run a server until SIGTERM. When it is ready it prints one line that ends with its address.

    With --log-format json the line is a JSON object; its field `address` has the address.
    """
    from groupconv_server.fronts.supervisor import Supervisor
    from groupconv_server.process import serve
    from groupconv_server.server import Server
    from groupconv_server.telemetry import logs, traces

    check_variables([f"{PREFIX}LAYER_DIR"])  # typer takes an empty one for none, and no layer would be kept
    config = settings.config()
    log = settings.log_format, settings.log_level or logging.getLogger().level
    logs.configure(*log)

    def ready(server: Server | Supervisor) -> None:
        if server.web_url:
            announce(f"groupconv shows its page on {server.web_url}", page=server.web_url)
        if server.metrics_url:
            announce(f"groupconv shows its metrics on {server.metrics_url}", metrics=server.metrics_url)
        announce(f"groupconv is serving with {server.described()} on {server.address}", address=server.address)

    def announce(text: str, **fields: str) -> None:
        typer.echo(as_json(text, "stdout", **fields) if settings.log_format == "json" else text)

    traces.configure()
    serve(config, ready, log)
