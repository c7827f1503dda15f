"""Ten minutes take no more memory than one."""

from __future__ import annotations

import subprocess
import sys

import pytest

STREAM = """
import resource, sys, torch
from ssmttm.engine.generator import Generator
torch.set_num_threads(1)
samples = 0
generator = Generator.load(sys.argv[1], "cpu")
for piece in generator.stream("calm piano", float(sys.argv[2]), seed=0, guidance=1.0, steps=1):
    samples += piece.samples.shape[1]
print(samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peak_memory_does_not_grow_with_the_piece(bundle_uri: str) -> None:
    peaks = []
    for seconds in (60, 600):
        command = [sys.executable, "-c", STREAM, bundle_uri, str(seconds)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(output[0]) == seconds * 24_000
        peaks.append(int(output[1]))
    assert peaks[1] < 1.05 * peaks[0], peaks
