"""The planner: the possible cuts of a convolution, the cheapest of them, and why it was chosen.

halo: cells that outputs need. cuts, pieces: what a cut is, and its pieces. candidates: the cuts considered.
rates, model: their predicted times. statistics: measured times. search: the cheapest cut of a chain.
plan: the plan of a request. describe, reasons: the plan for people. calibrate: measures the workers.
"""

from groupconv_server.planner.cuts import Cut, Piece
from groupconv_server.planner.plan import KnownPlan, Planner, empty_plan, request_plan
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.search import PlannedChain
from groupconv_server.planner.statistics import Statistics

__all__ = ["Cut", "KnownPlan", "Piece", "PlannedChain", "Planner", "Rates", "Statistics", "empty_plan", "request_plan"]
