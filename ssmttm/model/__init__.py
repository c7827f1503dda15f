"""Models: the state-space op, the language model over codes, the latent completer, the text encoders."""
