"""One file a metric: features -> statistics -> value."""
