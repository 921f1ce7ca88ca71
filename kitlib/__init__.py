"""A Keras kit for the UW-Madison GI Tract Image Segmentation competition.

Import from the rooms: `from kitlib.data import scans`, `from kitlib.layers import ExternalAttention`. A room imports
only the rooms above it in this list.

    contest rle files submission   names and ids; run-length text and masks; safe files; submission.csv
    session                        Kaggle or not, the type of session, the competition's folder
    data                           a folder -> one table; splits; PNG <-> the network's grid; tf.data batches
    layers models                  Keras layers, losses and networks in pure keras.ops
    scoring                        masks -> score, and where the points went
    eda                            the statistics of the data set
    postprocess                    probabilities -> masks, chosen by the score
    runs                           the run folder, and which run answers
    inference                      runs -> submission.csv
    figures                        all pictures
    training                       packed scans -> a run folder
    paper                          the paper's experiments

The synthetic competition is the package `phantom` beside this one.
"""

__version__ = "0.2.0"
