"""Data: read a folder in the official layout, split it, and make training batches.

    scans      read the competition as one table with a row per slice
    root       find the competition's folder, and say what to do where it is not found
    folds      training and validation splits
    earlier    the earlier day of a scan: the same patient, already annotated
    priors     the masks of another day, as further channels of the network's input
    inputs     `InputSpec`: stack depth, grid and scale; read images and bring them to the network's grid and back
    alignment  how far two scans of a patient lie apart, by normalised cross-correlation
    axes       stacks along other axes: coronal and sagittal pictures of packed scans
    boxes      the part of the slices around the organs, in mm, measured from the masks
    pipeline   pack scans in memory or on disk, and batch them with tf.data

    slices = scans.read(scans.find_root())               one row per slice, with run-length text per organ
    held_out = folds.by_case(slices) == 0                the validation set; or folds.later_days(slices)
    packed = pipeline.pack(slices, InputSpec())          images and masks on the network's grid
    batches = pipeline.dataset(slices, packed.spec, 16, training=True, packed=packed)

Nothing here imports Keras, and TensorFlow is imported when the first data set is made.
"""

from kitlib.data.inputs import InputSpec as InputSpec
