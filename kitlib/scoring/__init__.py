"""From masks to the score of the competition, and where the points are lost.

    host          the host score: Dice, Hausdorff distance, weights and totals; the one place that computes them
    distances     the exact Hausdorff distance of two sets of voxels
    conventions   other readings of the rules
    metric        the score of tables of run-length rows, per organ, scan and slice
    bootstrap     confidence intervals over cases
    borders       distances in millimetres, and the bias of the predicted border
    ledger        which kind of error costs how many points

`python -m kitlib.scoring TRUTH.csv SUBMISSION.csv` scores any submission, and `--ledger` prints its ledger.
"""

from kitlib.scoring.host import dice as dice
from kitlib.scoring.host import hausdorff as hausdorff
from kitlib.scoring.metric import panel as panel
from kitlib.scoring.metric import score as score
