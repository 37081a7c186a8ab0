"""The nightly job: plan, results, receipt, and the Ray Data pipeline."""

import os

# Ray announces each worker that dies on stdout, which is for the summary of a night. It reads this when imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
