"""From masks to the score of the competition, and where the points went."""

from kitlib.scoring.metric import panel as panel
from kitlib.scoring.metric import score as score
