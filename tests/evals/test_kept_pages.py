"""Freed memory is used again within, and given back after."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from evals import kept_pages

TRY = """
import resource, sys
import torch
from evals.kept_pages import pages_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)  # 80 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
torch.ones(20_000_000)
outside = min(faults() for _ in range(3))
with pages_kept(), pages_kept():
    inside = min(faults() for _ in range(12))  # the heap has to find its shape
    held = resident()
print(outside, inside, held, resident(), faults())
"""


@pytest.mark.skipif(kept_pages._glibc() is None, reason="not glibc")
def test_blocks_are_faulted_in_once_within_and_given_back_after() -> None:
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, check=True)
    outside, inside, held, after, again = map(int, done.stdout.split())
    pages = 5 * 80_000_000 // resource.getpagesize()
    assert outside > 0.5 * pages
    assert inside < 0.01 * pages
    assert held - after > 60_000_000
    assert again > 0.2 * pages
