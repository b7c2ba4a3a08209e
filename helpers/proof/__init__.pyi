from .card import certificate_sentence, with_certificate
from .certificate import Certificate, read_certificate
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
