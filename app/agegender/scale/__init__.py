"""Scoring of data sets, which needs the extra `score`; the service on Ray Serve, which needs `scale`."""
