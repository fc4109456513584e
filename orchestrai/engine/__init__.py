"""Engine: one loop thread that runs every attempt."""
