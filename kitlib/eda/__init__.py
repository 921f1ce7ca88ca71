"""Statistics of the data set: tables from run-length text and images, compared with the paper's.

`areas` measures every mask once, and `statistics` makes the tables. `annotators` shows where outlines begin and stop,
and how cases change over the days. `intensities` samples grey values. `published` compares the tables with the paper's
section IV. `planted` spoils annotations on purpose.
"""

from kitlib.eda.areas import measure as measure
