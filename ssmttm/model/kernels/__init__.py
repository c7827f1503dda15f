"""The state-space op of Mamba-2: reference, fused backward pass, Triton kernels."""
