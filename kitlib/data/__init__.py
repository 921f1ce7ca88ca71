"""From a folder in the official layout to batches: `scans` (the slice table), `folds` (splits), `inputs`, `pipeline`.

    slices = scans.read(scans.find_root())               one row per slice, with run-length text per organ
    held_out = folds.by_case(slices) == 0                the validation set; or folds.later_days(slices)
    packed = pipeline.pack(slices, InputSpec())          images and masks on the network's grid
    batches = pipeline.dataset(slices, packed.spec, 16, training=True, packed=packed)

Nothing here imports Keras, and TensorFlow is imported when the first data set is made.
"""

from kitlib.data.inputs import InputSpec as InputSpec
