"""Results: what a call returns, as values and as frames."""
