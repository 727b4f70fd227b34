"""What all tests share: how many examples a property gets.

By default each property runs a fixed, seeded sample, the same on every machine; OPENDT_SOAK=1 (``make soak``) draws many
more, at random, and remembers what failed.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

# No deadline: a busy machine is not a defect, and each test has its timeout.
settings.register_profile(
    "sample", max_examples=50, derandomize=True, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE
)
settings.register_profile(
    "soak", max_examples=2_000, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE
)
settings.load_profile("soak" if os.environ.get("OPENDT_SOAK") == "1" else "sample")
