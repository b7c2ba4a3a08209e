"""The files that travel with a converted model; they import nothing from ``helpers``."""
