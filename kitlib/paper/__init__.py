"""The paper's experiments and its open questions.

`experiments` lists the trainings behind the paper's tables and figures, runs them and makes the tables. `evidence`
measures what the paper leaves open: its accuracy, its borders, its annotators and its Table 8. `published` holds the
paper's own results.
"""
