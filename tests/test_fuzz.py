"""Files and requests as strangers may give them: refused in one sentence, or used rightly. See ``fuzzing/__init__.py``.

By default a small part of what there is is tried, always the same; ``--fuzz 20000`` tries more. Each subject runs in a
process of its own, so that its forks have no other threads.
"""

import json
import subprocess
import sys

import pytest

from helpers.paths import ROOT

SHARES = {"pth": 0.8, "directory": 0.1, "results": 0.1, "requests": 0.1}  # of the number of files


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, for forks and the limits of a process")
@pytest.mark.parametrize("subject", SHARES)
def test_refused_in_one_sentence_or_used_rightly(subject, request):
    count = round(request.config.getoption("--fuzz") * SHARES[subject])
    command = [sys.executable, "-m", "tests.fuzzing", subject, "--cases", str(count), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600 + count)
    faults = [json.loads(line) for line in done.stdout.splitlines()]
    texts = [f"python -m tests.fuzzing {fault['case']}\n    {fault['outcome']}: {fault['details']}" for fault in faults]
    assert not faults, f"{len(faults)} of {count} cases are at fault:\n" + "\n".join(texts[:20])
    assert done.returncode == 0, done.stderr
