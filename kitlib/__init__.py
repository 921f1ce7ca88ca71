"""A Keras kit for the UW-Madison GI Tract Image Segmentation competition.

Import from the rooms: `from kitlib.data import scans`, `from kitlib.layers import ExternalAttention`. Rooms are the
folders and the single files below. A room imports only rooms above it in this list.

    contest      the competition's facts: organs, ids, file names, the score's weights, the scans the hosts exclude
    rle          run-length text <-> masks
    files        safe writing, and one reader for every csv file
    submission   submission.csv: write, read, check
    data         a folder -> one table of slices; splits; images on the network's grid; tf.data batches
    session      Kaggle or not, the type of session, the competition's folder, the check of notebook parameters
    layers       Keras layers, losses and metrics in pure keras.ops
    models       the U-Net and its encoders in pure keras.ops
    scoring      masks -> the score, and where the points are lost
    eda          the statistics of the data set
    postprocess  probabilities -> masks, with settings chosen by the score
    runs         the run folder that a training writes, and the choice of runs to predict with
    inference    run folders -> submission.csv, in time and with a damaged test set
    figures      all pictures
    training     packed scans -> a run folder
    paper        the paper's experiments

The synthetic competition is the package `phantom` beside this one.
"""

__version__ = "0.2.0"
