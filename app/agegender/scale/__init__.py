"""More than one machine: a Ray Serve deployment, and the scoring of data sets. Needs the extra `score` or `scale`."""
