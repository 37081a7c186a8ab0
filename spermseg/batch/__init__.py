"""The nightly job: plan, results, receipt, and the Ray Data pipeline."""
