"""The paper's experiments and its open questions.

experiments   the trainings behind the paper's tables and figures, and our tables made from them
evidence      measurements of what the paper leaves open: accuracy, borders, annotation errors, Table 8
published     the paper's own results
"""
