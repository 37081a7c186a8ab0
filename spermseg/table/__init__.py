"""The results as a table: plan, units, receipt, lease, and the proof that nothing was lost."""
