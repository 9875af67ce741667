"""Where the time of the hot path goes: the workload of `durable`, many in flight, under cProfile.

The profiler makes small functions look dearer than they are; it tells where to look, not how much is to be gained.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile

from tests.benchmarks import workload
from tests.benchmarks.measuring import Options


def show(*, activities: int, lines: int, sort: str) -> None:
    """Run the workload in this process and print the dearest functions.

    Args:
        activities: how many.
        lines: how many functions are shown.
        sort: a key of `pstats`, as `tottime` or `cumulative`.
    """
    with tempfile.TemporaryDirectory(prefix="playbill-profile-") as directory:
        profiler = cProfile.Profile()
        profiler.enable()
        figures = workload.many(Options(directory, activities))
        profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats(sort).print_stats(lines)
    print(f"{figures['activities a second']:,.0f} activities a second under the profiler")
