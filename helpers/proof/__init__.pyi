from .card import with_certificate
from .certificate import Certificate, read_certificate
from .changes import certificate_sentence, changed
from .parity import (
    Parity,
    compare_decode,
    compare_prefill,
    compare_traces,
    converted_decode,
    converted_prefill,
    original_decode,
    original_prefill,
)

__all__ = [
    "Certificate",
    "Parity",
    "certificate_sentence",
    "changed",
    "compare_decode",
    "compare_prefill",
    "compare_traces",
    "converted_decode",
    "converted_prefill",
    "original_decode",
    "original_prefill",
    "read_certificate",
    "with_certificate",
]
