"""The planner: every way to cut a convolution, the cheapest of them, and why.

halo: cells that a range of outputs needs. cuts: pieces. candidates: the cuts considered. rates, model: what they cost.
statistics: what running taught. search: the cheapest cut of a chain. plan: of a request.
describe, reasons: in words. calibrate: measuring the workers.
"""

from groupconv_server.planner.cuts import Cut, Piece
from groupconv_server.planner.plan import Planner, empty_plan, request_plan
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.search import PlannedChain
from groupconv_server.planner.statistics import Statistics

__all__ = ["Cut", "Piece", "PlannedChain", "Planner", "Rates", "Statistics", "empty_plan", "request_plan"]
