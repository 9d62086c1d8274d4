"""What PyTorch's allocator handed out while something ran: the same number every time, unlike resident memory."""

import warnings
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_of(function: Callable[[], Any]) -> int:
    """Most bytes that were alive at a time, of what was allocated while `function` ran.

    Temporaries inside of operations are among them; what C code takes with malloc is not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            function()
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak
