"""All pictures; the only room that imports Matplotlib."""
