"""A picture of a load: throughput and latency over time, latency of each case, and the server's memory."""

from pathlib import Path

import numpy as np

from groupconv_server.load.outcome import LoadOutcome


def plot(outcome: LoadOutcome, path: Path, *, title: str) -> None:
    """Save the picture, in the format of the path's suffix."""
    from matplotlib.figure import Figure

    panels = 3 + bool(outcome.memory)
    figure = Figure(figsize=(9, 2.6 * panels), layout="constrained")
    axes = figure.subplots(panels)
    figure.suptitle(title)
    ended = np.array([s.ended - outcome.start for s in outcome.samples])
    right = np.array([s.right for s in outcome.samples], dtype=bool)
    ms = np.array([s.seconds for s in outcome.samples]) * 1e3
    step = max(1.0, outcome.elapsed / 60)
    edges = np.arange(0, outcome.elapsed + step, step)
    middles = (edges[:-1] + edges[1:]) / 2

    rates = axes[0]
    rates.stairs(np.histogram(ended[right], edges)[0] / step, edges, fill=True, alpha=0.6, label="right")
    if not right.all():
        rates.stairs(np.histogram(ended[~right], edges)[0] / step, edges, fill=True, color="C3", label="errors")
    rates.set(ylabel="requests/s", xlim=(0, outcome.elapsed))
    rates.legend(loc="lower right")

    times = axes[1]
    bins = np.digitize(ended, edges) - 1
    for q in (50, 95, 99):
        line = [np.percentile(of, q) if (of := ms[right & (bins == i)]).size else np.nan for i in range(len(middles))]
        times.plot(middles, line, label=f"p{q}")
    times.set(ylabel="latency, ms", xlabel="seconds", xlim=(0, outcome.elapsed), yscale="log")
    times.legend(loc="lower right", ncols=3)

    cases = axes[2]
    for i, name in enumerate(outcome.cases):
        own = np.sort(outcome.seconds(i)) * 1e3
        cases.plot(own, np.linspace(0, 100, own.size), label=name)
    cases.set(xlabel="latency, ms", ylabel="% of answers", xscale="log")
    cases.legend(fontsize="x-small")

    if outcome.memory:
        at, size = np.array(outcome.memory).T
        axes[3].plot(at, size / 2**20)
        axes[3].set(xlabel="seconds", ylabel="server memory, MiB", xlim=(0, outcome.elapsed), ylim=(0, None))
    figure.savefig(path, dpi=110)
