"""Files of others: published checkpoints, whatever is saved around weights, and what libraries save."""
