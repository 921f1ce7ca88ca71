"""Every picture of the kit: Matplotlib figures made from tables and arrays, in one look.

    style      colours, fonts, contours over slices; `save` writes a small PNG
    eda        the training set's tables: organs per slice, areas, overlaps, stop lines, grey values
    scans      slices with their masks: contact sheet, three planes, days of a case
    layers     what the layers do: the network as a U, elastic fields, augmented samples
    training   input stacks, curves, folds, predictions
    scoring    conventions, the worst distance, tuning, border bias
    paper      the experiments beside the paper's tables
    viewer     one HTML file to look at a prediction scan by scan, with its page in viewer.html, .css and .js

A notebook shows the figures that the functions return; `save` writes one. `python -m kitlib.figures RUN` draws a run's
pictures into its folder. This is the only room that imports Matplotlib, and no other room imports it.
"""

from kitlib.figures.style import save as save
