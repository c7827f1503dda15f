"""From a prompt to audio: sampling, recurrent decoding of stage 1, windows of stage 2, bundles."""
