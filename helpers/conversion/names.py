"""Names of files in a model directory that several rooms speak of; importing them needs no torch."""

CARD, CERTIFICATE, RECORD = "README.md", "parity.json", "conversion.json"
SETTINGS = ("config.json", "generation_config.json")
# beside a model in the layout of flash-linear-attention, for the way back to a .pth file: the names of all tensors in
# order, and those tensors that this layout has no place for
PTH_NAMES, PTH_UNUSED = "pth_names.json", "pth_unused.pth"
