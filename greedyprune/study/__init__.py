"""Studies: all that a search knows, in a database that Optuna and its dashboard open, too."""
