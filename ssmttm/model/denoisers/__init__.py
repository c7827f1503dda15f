"""Networks of stage 2, one a file, behind the contract of `common.Denoiser`."""
