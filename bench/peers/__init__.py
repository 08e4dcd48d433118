"""Other model servers, each from an environment of its own, on loopback."""
