"""How like the real data a phantom is: `report` prints every figure beside the real one and its band.

`measures` gathers the figures of a folder, `shapes` measures single masks and slices, and `guesses` scores predictions
that use no network. `python -m phantom ROOT --report` prints the table.
"""
