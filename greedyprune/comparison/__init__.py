"""Methods of pruning compared on one detector: each at several amounts, before and after retraining."""
