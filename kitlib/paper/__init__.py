"""The paper's experiments, and what it leaves open."""
