"""What a generative model must beat: other ways to keep an archive in few bytes.

Every baseline has `fit(...) -> model`, a pytree that holds everything needed to generate (its bytes are
`storage.nbytes(model)`), and `generate(model, key, measures) -> policy`. Models may be stored in any precision
(`precision.compress`): `generate` expands what it reads.
"""
