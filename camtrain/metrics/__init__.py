"""Is the evidence on the object, and does the heatmap tell the truth."""
