"""How like the real data a phantom is."""
