"""mamba-ssm's Triton kernels, as this project calls them, against plain torch, without a GPU.

    TRITON_INTERPRET=1 python tests/model/kernels/interpreted_kernels.py

Triton's interpreter runs them on CPU tensors. It knows no bf16 products, so fp32 alone is compared there. What asks
for a GPU around the kernels (its number of processors, timing of variants) is answered here.
"""

import contextlib
import types

import torch
from triton.runtime.autotuner import Autotuner

from ssmttm.model.kernels import backend


def main() -> None:
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=4)
    Autotuner.do_bench = property(lambda self: None, lambda self, value: None)
    Autotuner._bench = lambda self, *_, config, **__: [0.0]
    cpu = torch.device("cpu")
    for groups in (1, 2):
        backend.check_scan(backend._scan(), cpu, torch.float32, 16, 32, 300, groups)
    print("scan")
    backend.check_step(backend._step(), cpu, torch.float32, 16, 32)
    print("step")
    backend.check_gated_rms_norm(backend._gated_rms_norm(), cpu, torch.float32)
    print("gated_rms_norm")


if __name__ == "__main__":
    main()
