"""A synthetic competition in the official layout, so that everything in this kit runs without an account.

`cohort` plans cases and scans, `anatomy` draws organs in millimetres, `geometry` turns them into voxels, `scanner`
into grey values and `experts` into outlines; `files` writes the folder. `likeness` measures how like the real data a
folder is, `figures` draws it, and `standin` makes probabilities from its truth. Nothing here is data of patients.

    python -m phantom ROOT --cases 6     write a competition
    python -m phantom ROOT --report      print how like the real data it is
"""

from phantom.files import write as write
