"""Engines for encoders, which read a whole text or pair of texts in one forward pass.

`encoder` is the engine: prepare, forward, collect. `encoder_loading` loads and checks it. Each task adds a `head`.
"""
