"""The planner: how a convolution is cut into shards."""

from groupconv_server.planner.plan import PlannedStep, plan_step

__all__ = ["PlannedStep", "plan_step"]
