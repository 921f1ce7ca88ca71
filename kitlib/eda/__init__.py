"""Statistics of the data set, beside the published ones."""
