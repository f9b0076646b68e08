"""What a person sees of a search or an evaluation: tables, plots, progress, and the files that a search ends with."""
