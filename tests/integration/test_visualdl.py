"""What a run shows: VisualDL's log, steps.csv, the progress bar and the epoch lines."""
