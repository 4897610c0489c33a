"""HTTP in and out: requests to calls of `app.inference`, its results and exceptions to answers."""
