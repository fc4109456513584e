"""Parts for tests: a provider on loopback, a scripted platform and the suite every platform passes."""
