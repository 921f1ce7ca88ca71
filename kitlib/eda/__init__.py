"""Statistics of the data set: tables from run-length text and images, compared with the paper's.

areas         measure every mask once: area, centroid, overlaps
statistics    the tables made from them
annotators    where outlines begin and stop, and how they change from day to day
intensities   samples of grey values
published     the paper's tables (section IV) beside ours
planted       annotation errors planted in a copy of the masks, to test how well they are found
"""

from kitlib.eda.areas import measure as measure
