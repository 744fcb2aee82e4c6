"""Settings for every test."""

from hypothesis import HealthCheck, settings

# Timing is never judged: the machine may be busy. Illegal combinations are drawn and dropped, by design.
settings.register_profile(
    "groupconv", deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
settings.load_profile("groupconv")
