"""A campaign that is disturbed on purpose: jobs, submitters, workers, and what strikes them."""
