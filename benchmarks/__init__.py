"""How fast the service is, each figure against a bound that was measured in the same run: `make bench`."""
