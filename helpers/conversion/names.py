"""Names of files in a model directory that several rooms speak of; importing them needs no torch."""

CARD, CERTIFICATE, RECORD = "README.md", "parity.json", "conversion.json"
SETTINGS = ("config.json", "generation_config.json")
