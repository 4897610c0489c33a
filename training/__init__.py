"""The offline job that makes the served variants: data set to trained, calibrated, evaluated, exported models."""
