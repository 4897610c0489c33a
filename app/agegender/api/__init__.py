"""HTTP in and out: requests to calls of `agegender.inference`, its results and exceptions to answers."""
